"""Error feedback compared: residual, EF21 and none, with a coarse codec, on the digits of the demo.

``python -m benchmarks.codec.feedback`` simulates a run for every seed, codec and feedback, with all of five
clients in each round and with three of ten, and prints accuracies. It takes some minutes; decision 9 has the
table. All clients train in this process, one after the other, which is sooner than to start others.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.local_trainers import LocalTrainers

import hedgerow.demo.digits_task
from hedgerow.demo.digits import write_digits
from hedgerow.simulation import Simulation
from hedgerow_coordinator import Coordinator, RunStore, parse_plan

TASK = Path(hedgerow.demo.digits_task.__file__)
SEEDS = (7, 13, 21)
ROUNDS = 20
_LAST = 3
CODECS = {
    "float32": 'codec_id = "float32"',
    "deadzone": 'codec_id = "deadzone"\nstep = 8.0',
    "topk": 'codec_id = "topk"\nfraction = 0.01\nbits = 4',
}
FEEDBACKS = ("residual", "ef21", "none")
PARTS = {"5 of 5": (5, 0), "3 of 10": (10, 3)}
"""Clients, and how many of them a round asks for (0: all)."""
PLAN = """\
[run]
name = "feedback"
rounds = {rounds}
seed = {seed}

[cohort]
min_clients = {clients}
clients_per_round = {asked}
quorum = 1.0

[training]
epochs = 2
batch_size = 16
learning_rate = 0.1

[pruning]
policy = "none"

[codec]
feedback = "{feedback}"

[codec.uplink]
{codec}

[codec.downlink]
codec_id = "float32"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; print a line for each codec and feedback."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec.feedback", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--codecs", nargs="+", choices=sorted(CODECS), default=list(CODECS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    print(f"{'clients':8} {'codec':9} {'feedback':9} {'accuracy':>8} {'least':>6} {'up, kB':>7}", flush=True)
    for part in options.parts:
        for codec in options.codecs:
            for feedback in FEEDBACKS if codec != "float32" else ("none",):
                found = [
                    _run(part, codec, feedback, seed=seed, rounds=options.rounds) for seed in options.seeds
                ]
                late = [accuracy for accuracy, _ in found]
                kilobytes = statistics.mean(sent for _, sent in found) / 1e3
                accuracies = f"{statistics.mean(late):8.3f} {min(late):6.3f}"
                print(f"{part:8} {codec:9} {feedback:9} {accuracies} {kilobytes:7.0f}", flush=True)
    return 0


def _trainers(data: Path, folders: Sequence[Path]) -> LocalTrainers:
    with np.load(data / "test.npz") as pack:
        test = (pack["inputs"], pack["targets"])
    return LocalTrainers(TASK, folders={folder.name: folder for folder in folders}, test=test)


def _run(part: str, codec: str, feedback: str, *, seed: int, rounds: int) -> tuple[float, float]:
    """Return the mean accuracy of the last rounds, as a single one wavers, and the bytes of all updates."""
    clients, asked = PARTS[part]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="hedgerow-feedback-") as scratch:
        work = Path(scratch)
        data = write_digits(work / "data", num_clients=clients, seed=seed)
        trainers = _trainers(work / "data", data.folders)
        text = PLAN.format(
            rounds=rounds, seed=seed, clients=clients, asked=asked, feedback=feedback, codec=CODECS[codec]
        )
        plan = parse_plan(text.encode())
        with RunStore.create(
            work / "run", plan_bytes=plan.source, template_bytes=b"none", run_id="feedback"
        ) as store:
            simulation = Simulation(
                lambda read_traffic: Coordinator(
                    plan,
                    layout=trainers.layout,
                    store=store,
                    first_weights=lambda: None,  # drawn by the seed
                    evaluate=trainers.evaluate,
                    read_traffic=read_traffic,
                ),
                clients=[folder.name for folder in data.folders],
                layout=trainers.layout,
                namespace="default",
                trainers=trainers,
                on_notice=lambda _: None,
            )
            simulation.run()
            if simulation.coordinator.failure:
                raise SystemExit(
                    f"{part}, {codec}, {feedback}, seed {seed}: {simulation.coordinator.failure}"
                )
            done = [record for record in store.rounds() if record.status == "committed" and record.round]
            sent = sum(record.num_bytes for record in store.update_records())
    return statistics.mean(record.accuracy or 0.0 for record in done[-_LAST:]), sent


if __name__ == "__main__":
    sys.exit(main())
