"""Counters on disk: none is used twice, whatever happens to the process, the clock or the file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hedgerow_transport import CredentialsError
from hedgerow_transport.counters import MessageCounter, SeenCounters


def test_numbers_are_reserved_before_they_are_used(tmp_path: Path) -> None:
    path = tmp_path / "counter.json"
    counter = MessageCounter(path, wall_clock=lambda: 1.5)
    assert [counter.next() for _ in range(300)] == list(range(1500, 1800))
    assert json.loads(path.read_text()) == {"next": 1500 + 512}
    # A power cut: what was reserved is left out, never used twice. The clock is wrong now, and does no harm.
    assert MessageCounter(path, wall_clock=lambda: 0.0).next() == 2012
    # Two processes at a time.
    one, two = MessageCounter(path, wall_clock=lambda: 0.0), MessageCounter(path, wall_clock=lambda: 0.0)
    numbers = [source.next() for _ in range(600) for source in (one, two)]
    assert len(set(numbers)) == 1200
    # The file is lost: the clock takes its place.
    path.unlink()
    assert MessageCounter(path, wall_clock=lambda: 9.0).next() == 9000


def test_a_number_is_used_once_whichever_thread_asks(tmp_path: Path) -> None:
    counter = MessageCounter(tmp_path / "counter.json", wall_clock=lambda: 0.0)
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: counter.next(), range(2000)))
    assert sorted(numbers) == list(range(1, 2001))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"next": -1}', '{"next": true}', '{"next": 9e99}', '{"next": "1"}']
)
def test_a_damaged_counter_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "counter.json"
    path.write_text(content)
    with pytest.raises(CredentialsError, match=r"counter.json is damaged"):
        MessageCounter(path).next()


def test_what_cannot_be_noted_costs_no_message(tmp_path: Path) -> None:
    seen = SeenCounters(tmp_path / "no" / "such" / "folder.json", clock=lambda: 0.0)
    seen.note("a", 5)
    seen.save()
    assert seen.highest("a") == 5
