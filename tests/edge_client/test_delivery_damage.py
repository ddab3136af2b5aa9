"""Deliveries and the shelf of models after power cuts, damaged files and full disks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.edge_client.delivery_farm import GOOD, A, B, Farm, states

import hedgerow_edge_client.model_shelf as shelf_module
from hedgerow_edge_client import ModelShelf
from hedgerow_transport import (
    MemoryHub,
    blob_digest,
)


class PowerCut(BaseException):
    """What ends a process at once."""


def test_a_power_cut_at_any_step_of_a_switch_leaves_one_good_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that touches the disk in a switch is, in turn, the last one of the process."""
    steps = 0
    while True:
        directory = tmp_path / str(steps)
        farm = Farm(directory)
        device = farm.start("a")
        device.results = {blob_digest(A): GOOD}
        farm.deliver(A)
        count = 0

        def cut(call: Callable[..., object], last: int) -> Callable[..., object]:
            def counted(*arguments: object, **named: object) -> object:
                nonlocal count
                count += 1
                if count > last:
                    raise PowerCut
                return call(*arguments, **named)

            return counted

        import os

        with monkeypatch.context() as patch:
            for name in ("replace", "fsync", "open"):
                patch.setattr(os, name, cut(getattr(os, name), steps))
            device.results[blob_digest(B)] = replace(GOOD, before=0.9, after=0.95)
            try:
                farm.deliver(B)
                whole = True
            except PowerCut:
                whole = False
        farm.hub = MemoryHub()
        again = farm.start("a")
        assert again.in_use in (A, B)
        again.results = {blob_digest(B): replace(GOOD, before=0.9, after=0.95)}
        assert states(farm.deliver(B)) == {"a": "accepted"}
        assert again.in_use == B
        assert (directory / "a" / "delivery" / "model.onnx").read_bytes() == B
        assert again.shelf.warnings == []
        if whole:
            break
        steps += 1
    assert steps >= 6


def test_a_damaged_file_of_the_model_in_use_gives_way_to_the_one_before(farm: Farm) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD, blob_digest(B): replace(GOOD, before=0.9, after=0.9)}
    farm.deliver(A)
    farm.deliver(B)
    (device.directory / "delivery" / "model.onnx").write_bytes(b"rotten")
    again = ModelShelf(device.directory)
    again.mend()
    assert again.load() == (blob_digest(A), A)
    assert "damaged" in again.warnings[0]
    assert (device.directory / "delivery" / "model.onnx").read_bytes() == A
    assert again.look().current == blob_digest(A)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"version": 2}', b'{"version": 1, "current": "zz"}', b"\xff" * 99]
)
def test_a_damaged_shelf_keeps_the_model_that_was_in_use(farm: Farm, damage: bytes) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD}
    farm.deliver(A)
    (device.directory / "delivery" / "shelf.json").write_bytes(damage)
    again = ModelShelf(device.directory)
    again.mend()
    assert again.load() == (blob_digest(A), A)
    assert "is damaged" in again.warnings[0]
    assert (device.directory / "delivery" / "shelf.json.damaged").read_bytes() == damage


def test_a_full_disk_refuses_and_the_model_in_use_stays(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    device = farm.start("a")
    device.results = {blob_digest(A): GOOD, blob_digest(B): replace(GOOD, before=0.9, after=0.95)}
    farm.deliver(A)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shelf_module, "write_durably", full)
    found = farm.deliver(B, wait_s=20.0)
    assert found.rows[0].report is not None
    assert found.rows[0].state == "refused"
    assert "No space left on device" in found.rows[0].report.reason
    assert device.in_use == A
