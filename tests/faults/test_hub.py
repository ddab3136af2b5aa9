"""Deliveries of the in-memory broker with faults."""

from __future__ import annotations

import queue

import pytest
from benchmarks.faults import FaultyHub

from hedgerow_transport import MemoryLink, Received

COUNT = 400


def arrivals(hub: FaultyHub) -> list[int]:
    """Publish numbers; return those that arrive, in order."""
    reader = hub.connect("reader", ["t"])
    writer = hub.connect("writer")
    for number in range(COUNT):
        writer.publish("t", str(number).encode(), qos=1)
    return received(reader)


def received(link: MemoryLink) -> list[int]:
    numbers = []
    while True:
        try:
            event = link.events.get_nowait()
        except queue.Empty:
            return numbers
        if isinstance(event, Received):
            numbers.append(int(event.payload))


def test_without_faults_all_arrive_in_order() -> None:
    assert arrivals(FaultyHub(seed=1)) == list(range(COUNT))


def test_drops_are_about_the_share_and_the_rest_keeps_its_order() -> None:
    hub = FaultyHub(seed=1, drop=0.25)
    came = arrivals(hub)
    assert came == sorted(set(came))
    assert len(came) == COUNT - hub.num_dropped
    assert 60 < hub.num_dropped < 140


def test_duplicates_come_one_after_the_other() -> None:
    hub = FaultyHub(seed=1, duplicate=0.25)
    came = arrivals(hub)
    assert sorted(set(came)) == list(range(COUNT))
    assert len(came) == COUNT + hub.num_duplicated
    assert hub.num_duplicated > 60


def test_delayed_messages_are_overtaken_by_a_bounded_number() -> None:
    hub = FaultyHub(seed=1, delay=0.25, reorder=5)
    came = arrivals(hub)
    assert came != sorted(came)
    assert len(set(came)) == len(came) >= COUNT - 8
    assert max(place - number for place, number in enumerate(came)) <= 8
    assert hub.num_delayed > 60


def test_a_seed_makes_the_same_faults_again() -> None:
    options = {"drop": 0.1, "duplicate": 0.1, "delay": 0.2}
    assert arrivals(FaultyHub(seed=5, **options)) == arrivals(FaultyHub(seed=5, **options))
    assert arrivals(FaultyHub(seed=5, **options)) != arrivals(FaultyHub(seed=6, **options))


@pytest.mark.parametrize(("name", "value"), [("drop", 1.0), ("duplicate", -0.1), ("reorder", 0)])
def test_shares_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be "):
        FaultyHub(seed=1, **{name: value})
