"""Rounds in which nothing is learned: what the protocol, the disk and the processes take."""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import time
from pathlib import Path

from benchmarks.light import LightTrainer, light_layout, light_plan, take_part
from benchmarks.transport.brokers import PlainClient, broker_for, scratch, wait_until
from benchmarks.transport.coordinator import CoordinatorProcess

from hedgerow_coordinator import RunStore, StoreError

NUM_ROUNDS = 40
NUM_CLIENTS = 2
NUM_PARAMETERS = 2048
_SPAWN = multiprocessing.get_context("spawn")


def measure() -> dict[str, float]:
    """Run rounds of two clients whose training takes no time, on disk and on a disk in memory."""
    result = _rounds(None)
    memory = Path("/dev/shm")
    if memory.is_dir():
        result["round_overhead_without_disk_s"] = _rounds(memory)["round_overhead_s"]
    return result


def _rounds(place: Path | None) -> dict[str, float]:
    """Return the median time from the start of a round to that of the next."""
    with scratch(place) as folder, broker_for(folder) as (broker, _):
        plan = light_plan(rounds=NUM_ROUNDS, clients=NUM_CLIENTS)
        with CoordinatorProcess(plan, broker=broker.url, folder=folder, num_parameters=NUM_PARAMETERS) as led:
            processes = [
                _SPAWN.Process(target=_follow, args=(f"c{number}", broker.url, folder), daemon=True)
                for number in range(NUM_CLIENTS)
            ]
            for process in processes:
                process.start()
            wait_until(lambda: _committed(led.run_dir) == NUM_ROUNDS, "end of the run", timeout_s=180)
            for process in processes:
                process.join(20.0)
                process.kill()
        with RunStore.open(folder / "run", read_only=True) as store:
            starts = [r.started for r in store.rounds() if r.status == "committed" and r.round > 0]
    # The first one also waits for the model.
    gaps = [after - before for before, after in itertools.pairwise(starts[1:])]
    return {
        "rounds": len(gaps),
        "round_overhead_s": statistics.median(gaps),
        "slowest_round_s": max(gaps),
    }


def measure_plain() -> dict[str, float]:
    """Exchange the same bytes in whole messages, with nothing on disk and nothing to recover."""
    model = bytes(4 * NUM_PARAMETERS)
    with scratch() as folder, broker_for(folder, plain=True) as (_, port):
        leader = PlainClient(port, "up")
        clients = [PlainClient(port, "model") for _ in range(NUM_CLIENTS)]
        seconds = []
        for _ in range(NUM_ROUNDS):
            started = time.monotonic()
            leader.publish("model", model)
            for client in clients:
                _, payload = client.received.get(timeout=30)
                client.publish("up", payload)
            for _ in clients:
                leader.received.get(timeout=30)
            seconds.append(time.monotonic() - started)
        for each in (leader, *clients):
            each.close()
    return {"rounds": NUM_ROUNDS, "round_overhead_s": statistics.median(seconds)}


def _committed(run_dir: Path) -> int:
    try:
        with RunStore.open(run_dir, read_only=True) as store:
            return max((r.round for r in store.rounds() if r.status == "committed"), default=0)
    except StoreError:
        return 0


def _follow(name: str, url: str, folder: Path) -> None:
    take_part(
        name,
        broker=url,
        folder=folder,
        trainer=LightTrainer(light_layout(NUM_PARAMETERS)),
        say=lambda _: None,
    )
