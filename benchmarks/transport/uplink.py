"""Two hundred clients with an update of 200 kB each, at once."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from benchmarks.faults import LinkProfile, Proxy
from benchmarks.light import LightTrainer, light_layout, light_plan, take_part
from benchmarks.transport.brokers import PlainClient, broker_for, peak_mib, scratch, wait_until
from benchmarks.transport.coordinator import CoordinatorProcess

from hedgerow_coordinator import RunStore

NUM_CLIENTS = 200
NUM_PARAMETERS = 50_000


def measure() -> dict[str, float]:
    """Run one round of real clients, each in a thread; what comes in is decoded, checked and stored."""
    with (
        scratch() as folder,
        broker_for(folder) as (broker, port),
        Proxy(port, profile=LinkProfile()) as proxy,
    ):
        plan = light_plan(rounds=1, clients=NUM_CLIENTS, deadline_s=600.0)
        with CoordinatorProcess(plan, broker=proxy.url, folder=folder, num_parameters=NUM_PARAMETERS) as led:
            names = [f"c{number}" for number in range(NUM_CLIENTS)]
            threads = [_client(name, broker.url, folder / name) for name in names]
            for thread in threads:
                thread.start()
            wait_until(lambda: "round   1/1" in led.said, "end of the round", timeout_s=400)
            came = proxy.down_bytes
            peak, broker_peak = led.peak_mib, peak_mib(broker.pid)
            for thread in threads:
                thread.join(30.0)
        with RunStore.open(folder / "run", read_only=True) as store:
            updates = store.update_records(1)
            (record,) = (r for r in store.rounds() if r.round == 1 and r.status == "committed")
    update_bytes = sum(update.num_bytes for update in updates)
    return {
        "clients": len(updates),
        "update_bytes": update_bytes,
        "uplink_ratio": came / update_bytes,
        "seconds": record.seconds,
        "coordinator_rss_mib": peak,
        "broker_peak_rss_mib": broker_peak,
    }


def measure_plain() -> dict[str, float]:
    """Send the same bytes as one message each; count those that arrive."""
    update = random.Random(1).randbytes(4 * NUM_PARAMETERS)
    with scratch() as folder, broker_for(folder, plain=True) as (broker, port):
        leader = PlainClient(port, "up")
        clients = [PlainClient(port) for _ in range(NUM_CLIENTS)]
        started = last = time.monotonic()
        for client in clients:
            client.publish("up", update)
        arrived = 0
        while arrived < NUM_CLIENTS and time.monotonic() - last < 20:
            if leader.received.empty():
                time.sleep(0.01)
                continue
            assert leader.received.get()[1] == update
            arrived, last = arrived + 1, time.monotonic()
        result = {
            "arrived": arrived,
            "seconds": last - started,
            "broker_peak_rss_mib": peak_mib(broker.pid),
        }
        for each in (leader, *clients):
            each.close()
    return result


def _client(name: str, url: str, folder: Path) -> threading.Thread:
    return threading.Thread(
        target=take_part,
        args=(name,),
        kwargs={
            "broker": url,
            "folder": folder,
            "trainer": LightTrainer(light_layout(NUM_PARAMETERS)),
            "say": lambda _: None,
        },
        daemon=True,
    )
