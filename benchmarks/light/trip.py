"""A model's way down and an update's way up through a bad link, with real agents and a real broker."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.faults import LinkProfile, Proxy
from benchmarks.light.agents import lead, light_plan, take_part
from benchmarks.light.trainer import LightTrainer, light_layout

from hedgerow_coordinator import Outcome, RunStore
from hedgerow_edge_client import Leave

CLIENT = "pi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """What one round over a link came to.

    Parameters
    ----------
    model_bytes, update_bytes : int
        What had to be carried.
    down_bytes, up_bytes : int
        What the link carried down until the training began, and up until the round's end: whole TCP streams.
    seconds : float
    num_resets : int
    """

    model_bytes: int
    update_bytes: int
    down_bytes: int
    up_bytes: int
    seconds: float
    num_resets: int

    @property
    def down_overhead(self) -> float:
        """Bytes carried over bytes wanted, on the way down."""
        return self.down_bytes / self.model_bytes

    @property
    def up_overhead(self) -> float:
        """Bytes carried over bytes wanted, on the way up."""
        return self.up_bytes / self.update_bytes

    def __str__(self) -> str:
        return (
            f"{self.model_bytes:,} B down at {self.down_overhead:.3f}x, {self.update_bytes:,} B up at "
            f"{self.up_overhead:.3f}x, {self.num_resets} resets, {self.seconds:.1f} s"
        )


class TripError(Exception):
    """Something did not arrive, or not as it was."""


def make_trip(
    *,
    broker_port: int,
    profile: LinkProfile,
    folder: Path,
    num_parameters: int,
    uplink: dict[str, object] | None = None,
    chunk_bytes: int = 49152,
    timeout_s: float = 120.0,
    seed: int = 0,
) -> Trip:
    """Carry a model down and an update up; check that both arrive to the bit.

    Raises
    ------
    TripError
        When the round does not end in time, or the weights are not what they should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = light_plan(
        rounds=1,
        clients=1,
        uplink=uplink,
        deadline_s=2 * timeout_s,
        transport={"chunk_bytes": chunk_bytes},
    )
    trainer = LightTrainer(light_layout(num_parameters))
    said: list[str] = []
    counted: dict[str, int] = {}
    ends: dict[str, Outcome | Leave | None] = {}
    stop = threading.Event()
    with Proxy(broker_port, profile=profile, seed=seed) as proxy:

        def hear(sentence: str) -> None:
            said.append(sentence)
            if sentence == "round 1: training":
                counted["down"] = proxy.down_bytes

        def hear_coordinator(sentence: str) -> None:
            said.append(sentence)
            if sentence.startswith("round   1/1"):
                counted["up"] = proxy.up_bytes

        def coordinate() -> None:
            ends["run"] = lead(
                plan,
                broker=f"mqtt://127.0.0.1:{broker_port}",
                run_dir=folder / "run",
                num_parameters=num_parameters,
                say=hear_coordinator,
                stop=stop,
            )

        def follow() -> None:
            ends["client"] = take_part(
                CLIENT,
                broker=proxy.url,
                folder=folder,
                trainer=trainer,
                say=hear,
                stop=stop,
            )

        threads = [threading.Thread(target=work, daemon=True) for work in (coordinate, follow)]
        for thread in threads:
            thread.start()
        threads[0].join(timeout_s)
        stop.set()
        for thread in threads:
            thread.join(30.0)
        num_resets = proxy.num_resets
    finished = ends.get("run")
    if not isinstance(finished, Outcome) or not finished.finished or set(counted) != {"down", "up"}:
        raise TripError(f"the round did not end within {timeout_s:g} s: {said}")
    with RunStore.open(folder / "run", read_only=True) as store:
        latest = store.latest()
        (record,) = (each for each in store.rounds() if each.round == 1 and each.status == "committed")
        (update,) = store.update_records(1)
    if latest is None or trainer.last is None or not np.array_equal(latest[1].weights, trainer.last.weights):
        raise TripError("the weights that came out are not those that were sent")
    return Trip(
        model_bytes=4 * light_layout(num_parameters).num_parameters,
        update_bytes=update.num_bytes,
        down_bytes=counted["down"],
        up_bytes=counted["up"],
        seconds=record.seconds,
        num_resets=num_resets,
    )
