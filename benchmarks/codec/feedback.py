"""Error feedback compared: residual, EF21 and none, with a coarse codec, on the digits of the demo.

``python -m benchmarks.codec.feedback`` simulates a run for every seed, codec and feedback, with all of five
clients in each round and with three of ten, and prints accuracies. It takes a quarter of an hour; decision 9
has the table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import hedgerow.demo.digits_task
from hedgerow.demo.digits import write_digits
from hedgerow.initialise import initialise
from hedgerow.simulating import SimulationFacts, simulate
from hedgerow_coordinator import load_plan

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

[evaluate]
data = "evaluate.npz"

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
                late = [_late_accuracy(facts) for facts in found]
                kilobytes = statistics.mean(facts.uplink_bytes for facts in found) / 1e3
                accuracies = f"{statistics.mean(late):8.3f} {min(late):6.3f}"
                print(f"{part:8} {codec:9} {feedback:9} {accuracies} {kilobytes:7.0f}", flush=True)
    return 0


def _run(part: str, codec: str, feedback: str, *, seed: int, rounds: int) -> SimulationFacts:
    clients, asked = PARTS[part]
    with tempfile.TemporaryDirectory(prefix="hedgerow-feedback-") as scratch:
        work = Path(scratch)
        data = write_digits(work / "data", num_clients=clients, seed=seed)
        initialise(
            TASK,
            data=data.folders[0],
            output=work,
            name="feedback",
            min_clients=clients,
            rounds=rounds,
            force=True,
        )
        text = PLAN.format(
            rounds=rounds, seed=seed, clients=clients, asked=asked, feedback=feedback, codec=CODECS[codec]
        )
        (work / "plan.toml").write_text(text)
        facts = simulate(
            load_plan(work / "plan.toml"),
            task=TASK,
            clients={folder.name: folder for folder in data.folders},
            run_dir=work / "run",
            workers=1,
            say=lambda _: None,
        )
    if facts.failure:
        raise SystemExit(f"{part}, {codec}, {feedback}, seed {seed}: {facts.failure}")
    return facts


def _late_accuracy(facts: SimulationFacts) -> float:
    """Return the mean accuracy of the last rounds: a single one wavers."""
    return statistics.mean(record.accuracy or 0.0 for record in facts.rounds[-_LAST:])


if __name__ == "__main__":
    sys.exit(main())
