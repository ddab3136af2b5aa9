"""The trainer as a process: it answers, and however it ends there is a sentence, and nothing is left."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hedgerow_edge_client.errors import (
    EmptyData,
    FrameFault,
    TaskError,
    TrainerCrashed,
    TrainerFailed,
    TrainerTimeout,
)
from hedgerow_edge_client.requests import Progress, TrainRequest, TrainResult
from hedgerow_edge_client.trainer_frames import pack_array, read_frame, unpack_array, write_frame
from hedgerow_edge_client.trainer_life import Crashed, Failed, Trained, describe_end
from hedgerow_edge_client.trainer_process import TrainerProcess

TASK = Path(__file__).parent / "tiny_task.py"
NUM_PARAMETERS = 47


def request(**changes: object) -> TrainRequest:
    values: dict = {
        "round": 4,
        "seed": 1,
        "epochs": 2,
        "batch_size": 5,
        "learning_rate": 0.1,
        "weights": np.linspace(-1, 1, NUM_PARAMETERS, dtype=np.float32),
        "live": np.ones(NUM_PARAMETERS, np.bool_),
    }
    return TrainRequest(**{**values, **changes})


def outcome(trainer: TrainerProcess) -> Trained | Failed | Crashed:
    while isinstance(event := trainer.events.get(timeout=30), Progress):
        pass
    return event


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for_end(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


@pytest.fixture(scope="module")
def trainer() -> Iterator[TrainerProcess]:
    with TrainerProcess(TASK, data=None, client="a") as trainer:
        yield trainer


@pytest.mark.parametrize("wanted", [None, "262144"])
def test_memory_stays_for_the_next_batch_unless_somebody_wants_it_otherwise(
    wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    if wanted is not None:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", wanted)
    with TrainerProcess(TASK, data=None, client="a") as trainer:
        trainer.describe()
        found = Path(f"/proc/{trainer.pid}/environ").read_bytes().split(b"\0")
    assert f"MALLOC_TRIM_THRESHOLD_={wanted or 256 << 20}".encode() in found


def test_describe(trainer: TrainerProcess) -> None:
    description = trainer.describe()
    assert description.layout.num_parameters == NUM_PARAMETERS
    # The task protects the second layer, the third is the classifier.
    assert [t.name for t in description.layout.tensors if t.prunable] == ["0.weight"]
    assert (description.num_samples, description.metric, description.has_test_data) == (12, "accuracy", True)
    assert description.torch_version[0].isdigit()


def test_training_reports_progress_and_the_same_bits_each_time(trainer: TrainerProcess) -> None:
    # The task prints in every forward pass, to sys.stdout and to the descriptor.
    live = np.ones(NUM_PARAMETERS, np.bool_)
    live[3:6] = False
    results = []
    for _ in range(2):
        trainer.start_train(request(live=live))
        events = []
        while not events or isinstance(events[-1], Progress):
            events.append(trainer.events.get(timeout=30))
        assert events[-2] == Progress(epoch=2, epochs=2, batch=3, batches=3, loss=events[-2].loss)
        assert isinstance(events[-1], Trained)
        assert events[-1].round == 4
        results.append(events[-1].result)
    assert results[0].weights.tobytes() == results[1].weights.tobytes()
    assert (results[0].steps, results[0].num_samples) == (6, 12)
    assert results[0].weights[3:6].tolist() == request().weights[3:6].tolist() != [0, 0, 0]
    assert results[0].accuracy is not None
    assert 0 <= results[0].accuracy <= 1


def test_predict_uses_the_weights_given(trainer: TrainerProcess) -> None:
    weights = np.zeros(NUM_PARAMETERS, np.float32)
    weights[-3:] = [1, 2, 3]  # the biases of the last layer
    outputs = trainer.predict(weights, np.ones((300, 2)))
    assert outputs.shape == (300, 3)
    assert outputs.dtype == np.float32
    assert (outputs == [1, 2, 3]).all()


def test_test_data(trainer: TrainerProcess) -> None:
    data = trainer.test_data()
    assert data is not None
    inputs, targets = data
    assert inputs.dtype == np.float32
    assert inputs[1].tolist() == [np.float32(2 / 24), np.float32(3 / 24)]
    assert targets.tolist() == [0, 1, 2, 0, 1]


def test_a_template_is_a_model_with_the_first_weights_of_the_seed(trainer: TrainerProcess) -> None:
    from hedgerow_export import Runner, template_layout, template_parameters

    template = trainer.template(seed=11)
    layout = template_layout(template)
    assert layout == trainer.describe().layout
    weights = template_parameters(template)
    torch.manual_seed(11)
    wanted = torch.nn.Sequential(*(torch.nn.Linear(*shape) for shape in ((2, 4), (4, 4), (4, 3))))
    np.testing.assert_array_equal(weights, torch.nn.utils.parameters_to_vector(wanted.parameters()).detach())
    inputs = np.ones((2, 2), np.float32)
    np.testing.assert_allclose(Runner(template)(inputs), trainer.predict(weights, inputs), atol=1e-6)


def test_cancelled_training_leaves_no_event_and_the_next_one_runs(trainer: TrainerProcess) -> None:
    trainer.describe()
    trainer.start_train(request(epochs=1_000_000, round=5))
    assert isinstance(trainer.events.get(timeout=30), Progress)
    pid = trainer.pid
    trainer.cancel()
    assert trainer.events.empty()
    trainer.start_train(request(epochs=1, round=6))
    event = outcome(trainer)
    assert isinstance(event, Trained)
    assert (event.round, event.result.steps) == (6, 3)
    assert trainer.events.empty()
    assert trainer.pid == pid


def test_cancel_takes_back_a_result_that_nobody_has_read(trainer: TrainerProcess) -> None:
    trainer.events.put("somebody else's")
    trainer.start_train(request(epochs=1))
    deadline = time.monotonic() + 30
    while not any(isinstance(event, Trained) for event in list(trainer.events.queue)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    trainer.cancel()
    assert trainer.events.get_nowait() == "somebody else's"
    assert trainer.events.empty()


def test_training_stops_after_its_time(trainer: TrainerProcess) -> None:
    trainer.start_train(request(epochs=1_000_000, max_seconds=0.2))
    event = outcome(trainer)
    assert isinstance(event, Trained)
    assert 0.2 <= event.result.seconds < 5
    assert 1 <= event.result.steps < 3_000_000


def test_a_request_that_does_not_fit_the_model_fails_and_the_trainer_lives(
    trainer: TrainerProcess, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainerFailed, match=r"shape \(47,\), got \(2,\)") as caught:
        trainer.predict(np.zeros(2, np.float32), np.zeros((1, 2)))
    assert caught.value.kind == "LayoutError"
    with pytest.raises(TaskError, match=r"the model failed: RuntimeError: mat1 and mat2 shapes"):
        trainer.predict(np.zeros(NUM_PARAMETERS, np.float32), np.zeros((1, 9)))
    assert trainer.describe().num_samples == 12


def test_a_crash_is_an_event_the_next_request_starts_anew_and_notices_a_changed_model(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    text = TASK.read_text()
    path.write_text(text)
    with TrainerProcess(path, data=None, client="a") as trainer:
        trainer.describe()
        first = trainer.pid
        assert first is not None
        trainer.start_train(request(epochs=1_000_000))
        trainer.events.get(timeout=30)
        os.kill(first, signal.SIGILL)
        assert outcome(trainer) == Crashed(
            reason="torch crashed on this processor (SIGILL): run hedgerow doctor"
        )
        assert trainer.pid is None
        path.write_text(text.replace("nn.Linear(4, 4)", "nn.PReLU(4)"))
        trainer.start_train(request())
        assert trainer.pid != first
        event = outcome(trainer)
    assert isinstance(event, Failed)
    assert event.kind == "TaskError"
    assert "the model has changed since the client was started" in event.reason


def test_close_in_the_middle_of_training_leaves_no_child_and_no_event() -> None:
    trainer = TrainerProcess(TASK, data=None, client="a", threads=2)
    trainer.start_train(request(epochs=1_000_000))
    assert isinstance(trainer.events.get(timeout=30), Progress)
    pid = trainer.pid
    assert pid is not None
    assert b"OMP_NUM_THREADS=2\0" in Path(f"/proc/{pid}/environ").read_bytes()
    start = time.monotonic()
    trainer.close()
    trainer.close()
    assert time.monotonic() - start < 1.5  # it went by itself, it was not killed
    assert not Path(f"/proc/{pid}").exists()
    assert trainer.pid is None
    assert all(isinstance(event, Progress) for event in list(trainer.events.queue))


def test_what_goes_wrong_in_the_users_code_comes_back_as_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cases: list[tuple[str, type[Exception], str]] = [
        ("empty", EmptyData, r"tiny_task\.py: load_data returns no samples"),
        ("exits", TaskError, r"tiny_task\.py, line \d+: load_data failed: it calls sys\.exit\(\)"),
        ("asks", TaskError, "load_data failed: EOFError"),
        ("hungry", TrainerFailed, "not enough memory: use a smaller batch_size or a smaller model"),
        ("leaves", TrainerCrashed, "ended with exit code 7"),
    ]
    with TrainerProcess(TASK, data=tmp_path, client="a") as trainer:
        for mode, error, sentence in cases:
            (tmp_path / "mode").write_text(mode)
            with pytest.raises(error, match=sentence):
                trainer.describe()
    assert "Traceback" not in capfd.readouterr().err


def test_divergence_is_a_failed_event_and_a_hanging_trainer_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("nan")
    with TrainerProcess(TASK, data=tmp_path, client="a") as trainer:
        trainer.start_train(request())
        event = outcome(trainer)
        assert isinstance(event, Failed)
        assert event.kind == "TrainingDiverged"
        assert event.reason.startswith("round 4, step ")
        assert "the loss is nan; lower learning_rate (now 0.1)" in event.reason
        (tmp_path / "mode").write_text("sleeps")
        pid = trainer.pid
        with pytest.raises(TrainerTimeout, match=r"did not answer 'test_data' within 0\.5 s"):
            trainer.test_data(timeout_s=0.5)
        assert trainer.pid is None
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("in_thread", [False, True])
def test_the_trainer_dies_with_a_killed_parent(in_thread: bool) -> None:
    script = f"""
import os, pathlib, signal, sys, threading
import numpy as np
from hedgerow_edge_client.requests import TrainRequest
from hedgerow_edge_client.trainer_process import TrainerProcess

def work():
    trainer = TrainerProcess(pathlib.Path({str(TASK)!r}), data=None, client="a")
    n = {NUM_PARAMETERS}
    trainer.start_train(TrainRequest(round=1, seed=1, epochs=10**6, batch_size=5, learning_rate=0.1,
        weights=np.zeros(n, np.float32), live=np.ones(n, np.bool_)))
    trainer.events.get(timeout=30)
    print(trainer.pid, flush=True)
    return trainer

kept = []
if {in_thread}:
    thread = threading.Thread(target=lambda: kept.append(work()))
    thread.start()
    thread.join()
    # The thread that started the trainer is gone; the trainer must not be.
    for _ in range(3):
        kept[0].events.get(timeout=30)
else:
    work()
    kept.append(work)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert wait_for_end(int(done.stdout))


def test_ctrl_c_does_not_reach_the_trainer(trainer: TrainerProcess) -> None:
    trainer.describe()
    pid = trainer.pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    assert trainer.describe().num_samples == 12
    assert trainer.pid == pid


@pytest.mark.parametrize(
    ("returncode", "sentence", "name"),
    [
        (-4, "torch crashed on this processor (SIGILL): run hedgerow doctor", "SIGILL"),
        (-9, "the trainer was killed (SIGKILL), probably out of memory", "SIGKILL"),
        (-11, "torch or another native library crashed (SIGSEGV): run hedgerow doctor", "SIGSEGV"),
        (-15, "the trainer was ended from outside (SIGTERM)", "SIGTERM"),
        (-63, "the trainer was ended from outside (signal 63)", "signal 63"),
        (1, "the trainer ended with exit code 1", None),
    ],
)
def test_every_end_has_a_sentence(returncode: int, sentence: str, name: str | None) -> None:
    error = describe_end(returncode)
    assert str(error).startswith(sentence)
    assert error.signal == name


# -- the pipe ---------------------------------------------------------------------------------------------


def test_frames_come_back_and_end_with_none() -> None:
    stream = io.BytesIO()
    write_frame(stream, {"id": 1, "data": b"\x00\x01"})
    assert stream.getvalue()[:4] == (len(stream.getvalue()) - 4).to_bytes(4, "little")
    write_frame(stream, {"id": 2, "text": "é"})
    stream.seek(0)
    assert read_frame(stream) == {"id": 1, "data": b"\x00\x01"}
    assert read_frame(stream) == {"id": 2, "text": "é"}
    assert read_frame(stream) is None


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"\x05\x00", "inside a length"),
        (b"\xff\xff\xff\xff", "4294967295 bytes is announced"),
        (b"\x05\x00\x00\x00ab", "after 2 of 5 bytes"),
        (b"\x01\x00\x00\x00\xc1", "no msgpack"),
        (b"\x02\x00\x00\x00\x01\x01", "no msgpack"),
        (b"\x01\x00\x00\x00\x90", "a list instead of a map"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(FrameFault, match=fault):
        read_frame(io.BytesIO(data))


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.uint8, np.bool_, ">f8"])
def test_arrays_come_back(kind: str) -> None:
    array = np.arange(6).reshape(3, 2).astype(kind)
    got = unpack_array(pack_array(array.T))
    assert got.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(got, array.T)


@pytest.mark.parametrize(
    "packed",
    [{}, {"dtype": "O", "shape": [1], "data": b"12345678"}, {"dtype": "<f4", "shape": [2], "data": b"1234"}],
)
def test_what_is_no_array_is_refused(packed: dict) -> None:
    with pytest.raises(FrameFault):
        unpack_array(packed)


def test_requests_and_results_come_back_from_the_pipe() -> None:
    live = np.arange(NUM_PARAMETERS) % 3 > 0
    sent = request(live=live, momentum=0.9, weight_decay=0.01, proximal_mu=0.5, max_seconds=3.5)
    got = TrainRequest.from_wire(sent.to_wire())
    for name in TrainRequest.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(got, name), getattr(sent, name))
    result = TrainResult(weights=sent.weights, num_samples=3, loss=0.5, accuracy=None, steps=2, seconds=1.5)
    back = TrainResult.from_wire(result.to_wire())
    for name in TrainResult.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back, name), getattr(result, name))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"proximal_mu": -1.0}, "proximal_mu must be at least 0, got -1.0"),
        ({"seed": 2**64}, "seed must be from 0"),
        ({"weights": np.zeros(47)}, r"weights must be a flat float32 vector, got float64 \(47,\)"),
        ({"live": np.ones(46, np.bool_)}, "differ in length, 47 and 46"),
    ],
)
def test_a_request_out_of_range_is_refused(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        request(**change)
