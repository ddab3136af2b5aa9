"""Compare transfer learning with training from scratch, on real digits, in memory on this machine.

HEDGEROW_DATA=... python -m examples.transfer_runs
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from time import process_time

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from hedgerow.initialise import Transfer, initialise
from hedgerow.simulating import simulate
from hedgerow_coordinator import RunStore, load_plan
from hedgerow_coordinator.settings import write_tables
from hedgerow_edge_client.task import load_task

TASK = Path(__file__).parent / "transfer.py"
CLIENTS = 100
PLAN = {
    "cohort": {"min_clients": CLIENTS, "clients_per_round": 10},
    "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.05},
    "codec": {"uplink": {"codec_id": "deadzone"}, "downlink": {"codec_id": "deadzone"}},
    "evaluate": {"data": "evaluate.npz", "metric": "accuracy"},
}
DENSE = {"policy": "none"}
# Name, whether it begins with the trained body, what is frozen, and what is pruned.
RUNS = (
    ("from scratch", False, (), DENSE),
    ("pretrained, all trained", True, (), DENSE),
    ("pretrained, convolutions frozen, density 0.2", True, ("0", "3"), {"density": 0.2, "end_round": 10}),
    ("pretrained, all but the head frozen", True, ("0", "3", "7"), DENSE),
)


def pretrain(path, *, images, epochs, seed=7):
    """Train on the digits 0 to 4 of other writers, in one place; write all layers but the last one."""
    task = load_task(TASK)
    torch.manual_seed(seed)
    model = task.model()
    inputs, targets = sys.modules[task.build_model.__module__].known_digits()
    rows = np.random.default_rng(seed).permutation(len(inputs))[:images]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for batch in np.array_split(np.random.default_rng(seed).permutation(rows), len(rows) // 32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                model(torch.from_numpy(inputs[batch])), torch.from_numpy(targets[batch])
            )
            loss.backward()
            optimizer.step()
    body = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("9.")}
    save_file(body, path)
    return len(rows)


def run(work, weights, *, pretrained, freeze, pruning, rounds):
    """Run one federation; return what came of it."""
    transfer = Transfer(weights=weights if pretrained else None, partial=pretrained, freeze=freeze)
    initialise(
        TASK,
        data=None,
        output=work,
        name="transfer",
        min_clients=CLIENTS,
        rounds=1,
        force=False,
        transfer=transfer,
    )
    model = {"init": load_plan(work / "plan.toml").model.init, "freeze": freeze}
    if "end_round" in pruning:
        pruning = pruning | {key: min(pruning.get(key, 2), rounds) for key in ("start_round", "end_round")}
    tables = PLAN | {"run": {"name": "transfer", "rounds": rounds}, "model": model, "pruning": pruning}
    (work / "plan.toml").write_text(write_tables(tables))
    facts = simulate(
        load_plan(work / "plan.toml"),
        task=TASK,
        clients={f"client-{number}": None for number in range(CLIENTS)},
        run_dir=work / "run",
        workers=1,
        say=lambda sentence: print(f"    {sentence}", file=sys.stderr),
    )
    if facts.failure:
        raise SystemExit(f"the run failed: {facts.failure}")
    with RunStore.open(work / "run", read_only=True) as store:
        updates = [record.num_bytes for record in store.update_records()]
    return {
        "accuracy": [round(record.accuracy, 4) for record in facts.rounds],
        "density": round(facts.density, 4),
        "bytes up": facts.uplink_bytes,
        "bytes down": facts.downlink_bytes,
        "bytes of an update": round(sum(updates) / len(updates)),
    }


def main():
    """Run all of them and print a table."""
    parser = argparse.ArgumentParser(prog="python -m examples.transfer_runs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=10_000, help="that the net is trained on beforehand")
    parser.add_argument("--epochs", type=int, default=2, help="of that training")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory(prefix="hedgerow-transfer-") as scratch:
        work = Path(scratch)
        weights = work / "body.safetensors"
        images = pretrain(weights, images=options.images, epochs=options.epochs)
        print(f"pretrained on {images} images, {weights.stat().st_size} bytes", file=sys.stderr)
        for number, (name, pretrained, freeze, pruning) in enumerate(RUNS):
            print(name, file=sys.stderr)
            folder = work / str(number)
            results[name] = run(
                folder,
                weights,
                pretrained=pretrained,
                freeze=freeze,
                pruning=pruning,
                rounds=options.rounds,
            )
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
    print("| run | accuracy after 1 | 5 | all rounds | an update | bytes up | bytes down |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, found in results.items():
        after = found["accuracy"]
        print(
            f"| {name} | {after[0]:.4f} | {after[min(4, len(after) - 1)]:.4f} | {after[-1]:.4f} | "
            f"{found['bytes of an update']:,} | {found['bytes up']:,} | {found['bytes down']:,} |"
        )
    print(f"{process_time():.0f} s of CPU in this process", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
