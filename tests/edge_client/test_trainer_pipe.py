"""The client does not wait for a trainer that reads nothing."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from hedgerow_edge_client import trainer_frames
from hedgerow_edge_client.errors import TrainerCrashed
from hedgerow_edge_client.requests import TrainRequest
from hedgerow_edge_client.trainer_process import TrainerProcess

TASK = Path(__file__).with_name("tiny_task.py")
# A pipe holds 64 KiB, so four megabytes wait for their reader.
LARGE = TrainRequest(
    round=1,
    seed=1,
    epochs=1,
    batch_size=4,
    learning_rate=0.1,
    weights=np.zeros(2**20, np.float32),
    live=np.ones(2**20, np.bool_),
)


def test_a_trainer_that_reads_nothing_holds_nobody_up() -> None:
    with TrainerProcess(TASK, data=None, client="a") as trainer:
        trainer.start_train(LARGE)
        pid = trainer.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        for _ in range(3):
            trainer.start_train(LARGE)
        trainer.cancel()
        assert time.monotonic() - start < 1.0
        trainer.close()
        assert time.monotonic() - start < 10.0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_trainer_is_out_of_reach_of_ctrl_c_from_its_first_moment() -> None:
    with TrainerProcess(TASK, data=None, client="a") as trainer:
        trainer.start_train(LARGE)
        assert trainer.pid is not None
        assert os.getpgid(trainer.pid) != os.getpgid(0)


def test_a_request_too_large_for_a_frame_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_frames, "MAX_FRAME_BYTES", 1000)
    with (
        TrainerProcess(TASK, data=None, client="a") as trainer,
        pytest.raises(TrainerCrashed, match="more than the 1000"),
    ):
        trainer.predict(LARGE.weights, np.zeros((1, 2)), timeout_s=30.0)
