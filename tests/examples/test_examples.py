"""The examples on small packs of the right form: their loaders, their plans, and a round of one of them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hedgerow_coordinator import load_plan
from hedgerow_edge_client.errors import TaskError
from hedgerow_edge_client.parameters import module_layout
from hedgerow_edge_client.task import load_task

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.toml"))


def write_packs(folder):
    rng = np.random.default_rng(7)

    def labels(num, classes):
        return (np.arange(num) % classes).astype(np.uint8)

    def write(name, owner, owners, **arrays):
        owned = {owner: np.repeat(np.arange(owners), 6)}
        test = {key.replace("_train", "_test"): value[:12] for key, value in arrays.items()}
        np.savez(folder / f"{name}.npz", **arrays, **test, **owned)

    write(
        "wisdm_watch",
        "subject_train",
        50,
        x_train=rng.normal(size=(300, 91)).astype(np.float32),
        y_train=labels(300, 18),
    )
    write(
        "mnist_writers",
        "writer_train",
        100,
        x_train=rng.integers(0, 256, (600, 28, 28)).astype(np.uint8),
        y_train=labels(600, 10),
    )
    hearts = rng.normal(size=(24, 13)).astype(np.float32)
    hearts[::3, 4:] = np.nan
    write("heart_disease", "hospital_train", 4, x_train=hearts, y_train=labels(24, 2))
    write(
        "mitbih_beats",
        "record_train",
        22,
        x_train=rng.integers(-900, 900, (132, 128)).astype(np.int16),
        rr_train=rng.integers(0, 600, (132, 2)).astype(np.uint16),
        y_train=labels(132, 5),
    )
    write(
        "cmapss_fd001",
        "unit_train",
        100,
        x_train=rng.normal(500, 9, (600, 24)).astype(np.float32),
        y_train=np.arange(600).astype(np.int16),
    )


@pytest.fixture
def packs(tmp_path, monkeypatch):
    write_packs(tmp_path)
    monkeypatch.setenv("HEDGEROW_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_each_client_has_data_that_its_model_takes_and_the_plan_fits_the_model(name, packs):
    task, plan = load_task(EXAMPLES / f"{name}.py"), load_plan(EXAMPLES / f"{name}.toml")
    module = task.model()
    plan.pruning.check(module_layout(module, protect=task.protect))
    assert plan.evaluate.metric == task.metric
    last = plan.cohort.min_clients - 1
    sizes = [len(task.samples(None, client=client)) for client in ("client-0", f"client-{last}", "init")]
    assert sizes[0] == sizes[2] > 0
    inputs, targets = task.samples(None, client=f"client-{last}").batch(range(4))
    assert np.isfinite(inputs.numpy()).all()
    assert task.loss(module(inputs), targets).item() > 0
    test = task.test_samples(None)
    assert test is not None
    assert len(test) == 12
    with pytest.raises(TaskError, match=f"clients are client-0 to client-{last}, not client-{last + 1}"):
        task.samples(None, client=f"client-{last + 1}")


def test_a_missing_pack_is_named_with_the_archive_that_it_is_made_from(tmp_path, monkeypatch):
    task = load_task(EXAMPLES / "wisdm.py")
    monkeypatch.delenv("HEDGEROW_DATA", raising=False)
    with pytest.raises(TaskError, match=r"set HEDGEROW_DATA .* wisdm_watch\.npz.*archive\.ics\.uci\.edu"):
        task.samples(None, client="client-0")
    monkeypatch.setenv("HEDGEROW_DATA", str(tmp_path))
    with pytest.raises(TaskError, match=re.escape(f"there is no {tmp_path / 'wisdm_watch.npz'}")):
        task.samples(None, client="client-0")
    np.savez(tmp_path / "wisdm_watch.npz", x_train=np.zeros(3))
    with pytest.raises(TaskError, match="has no array y_train"):
        task.samples(None, client="client-0")


def test_an_example_runs_and_says_what_both_ways_cost(packs):
    done = subprocess.run(
        [sys.executable, "-m", "examples", "heart", "--rounds", "2", "--workers", "1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = {line[:12].strip(): line[12:].split() for line in done.stdout.splitlines()}
    assert table["rounds"] == ["2", "2"]
    assert table["density"] == ["0.5", "1.0"]
    ours, dense = (int(cell.replace(",", "")) for cell in table["bytes up"])
    assert 0 < ours < dense / 4


def test_the_clients_of_the_transfer_example_have_digits_that_the_net_has_not_seen(packs):
    task = load_task(EXAMPLES / "transfer.py")
    inputs, targets = task.samples(None, client="client-1").batch(range(2))
    # Writer 1 has the rows 6 to 11 of the pack, whose digits are 6 to 9, 0 and 1.
    assert targets.tolist() == [1, 2]
    assert tuple(task.model()(inputs).shape) == (2, 5)
    test = task.test_samples(None)
    assert test is not None
    assert len(test) == 5
    with pytest.raises(TaskError, match="clients are client-0 to client-99, not client-100"):
        task.samples(None, client="client-100")
