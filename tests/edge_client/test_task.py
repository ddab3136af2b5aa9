"""Every way in which a task file can be wrong is one sentence with the file in it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from hedgerow_edge_client.errors import EmptyData, TaskError
from hedgerow_edge_client.samples import make_samples
from hedgerow_edge_client.task import Task, load_task, scan_task

GOOD = """import torch

def build_model():
    return torch.nn.Linear(2, 2)

def load_data(data, client):
    return torch.zeros(3, 2), torch.zeros(3)

def loss(outputs, targets):
    return outputs.sum()
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "task.py"
    path.write_text(text)
    return path


def refused(path: Path, *, by_scan: bool) -> TaskError:
    """Load a task that cannot be loaded; a scan must see it too, or must not."""
    with pytest.raises(TaskError) as caught:
        load_task(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    if by_scan:
        with pytest.raises(TaskError) as scanned:
            scan_task(path)
        assert str(scanned.value) == str(caught.value)
    else:
        scan_task(path)
    return caught.value


def test_a_whole_task_is_loaded(tmp_path: Path) -> None:
    text = GOOD + 'metric = "mse"\nprotect = ["weight"]\ndef load_test_data(data): return data\n'
    path = write(tmp_path, text)
    task = load_task(path)
    assert (task.path, task.metric, task.protect) == (path, "mse", ("weight",))
    assert isinstance(task.model(), torch.nn.Linear)
    assert len(task.samples(None, client="a")) == 3
    assert scan_task(path) >= {
        "build_model",
        "load_data",
        "loss",
        "load_test_data",
        "metric",
        "protect",
        "torch",
    }


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD))
    assert (task.metric, task.protect, task.load_test_data) == ("accuracy", (), None)
    assert task.test_samples(None) is None


def test_missing_file_and_directory(tmp_path: Path) -> None:
    assert "there is no such file" in str(refused_by_both(tmp_path / "task.py"))
    assert "this is a directory" in str(refused_by_both(tmp_path))


def refused_by_both(path: Path) -> TaskError:
    return refused(path, by_scan=True)


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    error = refused(write(tmp_path, GOOD + "def broken(:\n"), by_scan=True)
    assert error.line == 11
    assert "line 11" in str(error)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "build_model",
            "make_model",
            r"does not define build_model\(\) \(there is 'make_model': is that it\?\)",
        ),
        ("load_data", "get_data", r"does not define load_data\(data, client\) \(there is 'get_data'"),
        ("def loss", "def quux", r"does not define loss\(outputs, targets\): add that function"),
    ],
)
def test_a_missing_name_is_answered_with_the_nearest(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    error = refused(write(tmp_path, GOOD.replace(old, new)), by_scan=True)
    with pytest.raises(TaskError, match=sentence):
        raise error


def test_a_name_bound_in_any_way_counts_for_the_scan(tmp_path: Path) -> None:
    text = (
        "from torch.nn.functional import cross_entropy as loss\n"
        "try:\n    import numpy\nexcept ImportError:\n    numpy = None\n"
        "else:\n    build_model, load_data = print, print\n"
        "def outer():\n    hidden = 1\n"
    )
    assert scan_task(write(tmp_path, text)) == {"loss", "numpy", "build_model", "load_data", "outer"}
    # What a star import brings is not known without running it.
    scan_task(write(tmp_path, "from elsewhere import *\n"))


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        (
            "\nimport no_such_thing.deep\n",
            2,
            "it imports 'no_such_thing', which is not here: pip install no_such",
        ),
        ("from torch import no_such_name\n", 1, "it cannot be loaded: ImportError: cannot import name"),
        ("x = 1\ny = x / 0\n", 2, "it cannot be loaded: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit()\n", 2, r"it cannot be loaded: it calls sys\.exit\(\)"),
        ("import beside\n", 1, r"SyntaxError in .*beside\.py, line 1"),
    ],
)
def test_what_fails_inside_the_file_has_its_line(tmp_path: Path, text: str, line: int, sentence: str) -> None:
    (tmp_path / "beside.py").write_text("def broken(:\n")
    error = refused(write(tmp_path, text + GOOD), by_scan=False)
    assert error.line == line
    with pytest.raises(TaskError, match=f"line {line}: .*{sentence}"):
        raise error
    sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("loss = 3\n", r"'loss' is a int: make it a function loss\(outputs, targets\)"),
        ("def load_data(data): pass\n", r"load_data\(data\) cannot be called as load_data\(data, client\)"),
        ("async def loss(outputs, targets): pass\n", "'loss' is async"),
        ("load_test_data = 'x'\n", r"'load_test_data' is a str: make it a function load_test_data\(data\)"),
        ("metric = 'acuracy'\n", "Unknown metric 'acuracy'; did you mean 'accuracy'"),
        ("metric = max\n", "'metric' is a builtin_function_or_method: make it a name"),
        ("protect = 'weight'\n", r'write protect = \("weight",\)'),
        ("protect = (1,)\n", "'protect' must be a tuple of tensor names"),
    ],
)
def test_a_value_of_the_wrong_kind_is_a_sentence(tmp_path: Path, more: str, sentence: str) -> None:
    with pytest.raises(TaskError, match=sentence):
        raise refused(write(tmp_path, GOOD + more), by_scan=False)


def test_a_model_that_is_none_and_one_that_fails(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD.replace("torch.nn.Linear(2, 2)", "torch.nn.Linear")))
    with pytest.raises(TaskError, match=r"build_model returns a type: return a torch\.nn\.Module"):
        task.model()
    task = load_task(write(tmp_path, GOOD.replace("torch.nn.Linear(2, 2)", "torch.nn.Linear()")))
    with pytest.raises(TaskError, match=r"line 4: build_model failed: TypeError: .*missing 2 required"):
        task.model()


def test_a_data_class_and_a_file_beside_the_task_work(tmp_path: Path) -> None:
    (tmp_path / "net_beside_the_task.py").write_text("import torch\nNet = torch.nn.Linear\n")
    (tmp_path / "random.py").write_text("raise RuntimeError('took the place of a package')\n")
    text = (
        "from __future__ import annotations\nimport dataclasses, random\n"
        "from net_beside_the_task import Net\n"
        "@dataclasses.dataclass\nclass Size:\n    width: int = 2\n"
    )
    task = load_task(write(tmp_path, text + GOOD.replace("torch.nn.Linear(2, 2)", "Net(Size().width, 2)")))
    assert isinstance(task.model(), torch.nn.Linear)
    sys.path.remove(str(tmp_path))


def test_two_tasks_of_one_name_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = load_task(write(tmp_path / "a", GOOD + 'metric = "mse"\n'))
    second = load_task(write(tmp_path / "b", GOOD + 'metric = "mae"\n'))
    assert (first.metric, second.metric) == ("mse", "mae")
    assert first.build_model.__module__ != second.build_model.__module__


# -- data -------------------------------------------------------------------------------------------------


class Pairs(Dataset):
    def __init__(self, rows: list) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> object:
        return self.rows[index]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(())


@pytest.mark.parametrize(
    ("value", "inputs", "targets"),
    [
        ((np.eye(3), np.array([5, 6, 7], np.uint8)), torch.float32, torch.int64),
        ((torch.eye(3).double(), torch.tensor([5, 6, 7])), torch.float32, torch.int64),
        ((np.eye(3, dtype=">f8")[:, ::-1][:, ::-1], np.array([5, 6, 7], ">i2")), torch.float32, torch.int64),
        ((np.eye(3, dtype=np.int64), np.array([5.0, 6.0, 7.0])), torch.int64, torch.float32),
        ([np.eye(3), np.array([5, 6, 7], np.uint16)], torch.float32, torch.int64),
        (TensorDataset(torch.eye(3), torch.tensor([5, 6, 7])), torch.float32, torch.int64),
        (Pairs([(row, i + 5) for i, row in enumerate(np.eye(3))]), torch.float32, torch.int64),
        ([(row, float(i + 5)) for i, row in enumerate(torch.eye(3))], torch.float32, torch.float32),
    ],
)
def test_batches_of_whatever_is_accepted(value: object, inputs: torch.dtype, targets: torch.dtype) -> None:
    samples = make_samples(value, source="load_data")
    assert len(samples) == 3
    got = samples.batch([2, 0])
    assert (got[0].dtype, got[1].dtype) == (inputs, targets)
    assert got[0].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert got[1].tolist() == [7, 5]


def test_a_memory_map_stays_on_disk_and_read_only(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    batch, _ = make_samples((mapped, np.arange(3)), source="load_data").batch([1])
    batch += 1  # its own memory, or this would fail
    assert mapped[1].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ((np.zeros((3, 2)), np.zeros(2)), "returns 3 inputs but 2 targets"),
        ((np.array(["a", "b"]), np.zeros(2)), "inputs of type <U1: make them numbers"),
        ((np.zeros((2, 2)), np.array([None, 1])), "targets of type object"),
        ((np.array(3.0), np.zeros(2)), "inputs without dimensions: the first one counts"),
        (Stream(), "an iterable dataset"),
        (DataLoader(Pairs([(1, 2)])), "returns a DataLoader: return its dataset"),
        (None, "returns nothing: return a dataset"),
        (np.zeros((3, 2)), "returns a ndarray: return a dataset"),
        ((np.zeros(2), np.zeros(2), np.zeros(2)), "returns a tuple of ndarray, ndarray, ndarray: return"),
        ((torch.zeros(2), None), "returns a tuple of Tensor, NoneType"),
        ({"x": 1}, "returns a dict"),
    ],
)
def test_data_that_cannot_be_used_is_a_sentence(value: object, sentence: str) -> None:
    with pytest.raises(TaskError, match=f"load_data {sentence}|load_data returns {sentence}"):
        make_samples(value, source="load_data")


@pytest.mark.parametrize("value", [(np.zeros((0, 2)), np.zeros(0)), Pairs([]), []])
def test_no_samples_is_an_error_of_its_own(value: object) -> None:
    with pytest.raises(EmptyData, match="check the folder that --data names"):
        make_samples(value, source="load_data")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([(torch.zeros(2), 0), (torch.zeros(3), 1)], "cannot be put into one batch"),
        ([(object(), 0), (object(), 1)], "cannot be put into one batch"),
        ([(0, 0), 5], "sample 1 of load_data is a int, not a pair"),
        ([({"x": 1}, 0), ({"x": 2}, 1)], "the input of a sample of load_data must be one tensor or number"),
    ],
)
def test_samples_that_cannot_be_used_are_a_sentence(rows: list, sentence: str) -> None:
    samples = make_samples(Pairs(rows), source="load_data")
    with pytest.raises(TaskError, match=sentence):
        samples.batch([0, 1])


def test_data_errors_name_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    empty = Task(path=path, build_model=lambda: None, loss=max, load_data=lambda d, c: ([], [])[0])
    with pytest.raises(EmptyData) as caught:
        empty.samples(None, client="a")
    assert str(caught.value).startswith(f"{path}: load_data returns a dataset without samples")


def test_a_task_without_torch_installed_says_how_to_get_it(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys\n"
        "sys.modules['torch'] = None\n"
        "from hedgerow_edge_client.task import load_task\n"
        "load_task(pathlib.Path(sys.argv[1]))\n"
    )
    path = write(tmp_path, GOOD)
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert (
        f"{path}, line 1: it imports 'torch', which is not here: pip install 'hedgerow[edge]'" in done.stderr
    )
