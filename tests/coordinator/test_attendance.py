"""Who is there, and who is drawn."""

import pytest

from hedgerow_coordinator import attendance
from hedgerow_coordinator.attendance import ASK_PAUSE_S, PATIENCE_S, Attendance, choose_cohort
from hedgerow_transport import Presence


def word(client, session, *, online):
    return Presence(client=client, session=session, online=online)


def test_births_and_wills_say_who_is_there():
    who = Attendance()
    assert who.note(word("b", 1, online=True), now=0.0)
    assert who.note(word("a", 1, online=True), now=0.0)
    assert who.online == ("a", "b")
    assert not who.note(word("a", 1, online=True), now=1.0)
    assert who.note(word("b", 1, online=False), now=2.0)
    assert who.online == ("a",)
    assert who.is_online("a")
    assert not who.is_online("b")
    assert not who.is_online("c")


def test_a_late_will_of_an_older_session_does_not_put_a_newer_one_off():
    who = Attendance()
    who.note(word("a", 5, online=True), now=0.0)
    assert not who.note(word("a", 4, online=False), now=1.0)
    assert who.online == ("a",)


def test_a_device_that_counts_from_one_again_is_there():
    who = Attendance()
    who.note(word("a", 57, online=False), now=0.0)
    assert who.note(word("a", 1, online=True), now=1.0)
    assert who.online == ("a",)
    assert who.note(word("a", 1, online=False), now=2.0)
    assert who.online == ()


def test_a_client_counts_as_gone_some_time_after_its_first_will():
    who = Attendance()
    who.note(word("a", 1, online=True), now=0.0)
    assert who.gone_at("a") is None
    who.note(word("a", 1, online=False), now=10.0)
    who.note(word("a", 1, online=False), now=12.0)
    assert who.gone_at("a") == 10.0 + PATIENCE_S
    who.note(word("a", 1, online=True), now=13.0)
    assert who.gone_at("a") is None
    assert who.gone_at("stranger") == float("-inf")


def test_a_cleared_presence_is_forgotten():
    who = Attendance()
    who.note(word("a", 1, online=True), now=0.0)
    who.forget("a")
    assert who.online == ()


def test_strangers_take_a_bounded_room_and_those_who_left_make_it(monkeypatch):
    monkeypatch.setattr(attendance, "MAX_CLIENTS", 3)
    who = Attendance()
    for name in "abc":
        who.note(word(name, 1, online=True), now=0.0)
    assert not who.note(word("d", 1, online=True), now=0.0)
    assert who.online == ("a", "b", "c")
    who.note(word("b", 1, online=False), now=0.0)
    assert who.note(word("d", 1, online=True), now=0.0)
    assert who.online == ("a", "c", "d")


@pytest.mark.parametrize("size", [0, 5, 9])
def test_everybody_is_drawn_when_none_must_stay_out(size):
    assert choose_cohort("edcba", size=size, seed=1, round_number=1) == ("a", "b", "c", "d", "e")


def test_a_cohort_is_drawn_without_replacement_by_seed_and_round():
    names = [f"c{number}" for number in range(20)]
    drawn = [choose_cohort(names, size=5, seed=7, round_number=number) for number in range(1, 101)]
    assert all(len(set(cohort)) == 5 and list(cohort) == sorted(cohort) for cohort in drawn)
    assert drawn == [
        choose_cohort(reversed(names), size=5, seed=7, round_number=number) for number in range(1, 101)
    ]
    assert drawn != [choose_cohort(names, size=5, seed=8, round_number=number) for number in range(1, 101)]
    # 25 of 100 rounds each, give or take: nobody is left out.
    counts = [sum(name in cohort for cohort in drawn) for name in names]
    assert min(counts) >= 10
    assert max(counts) <= 40


def test_who_speaks_and_is_not_known_to_be_there_is_asked_now_and_then():
    who = Attendance()
    assert who.must_ask("a", now=0.0)
    assert not who.must_ask("a", now=ASK_PAUSE_S - 1)
    assert who.must_ask("b", now=1.0)
    assert who.must_ask("a", now=ASK_PAUSE_S)
    who.note(word("a", 1, online=True), now=20.0)
    assert not who.must_ask("a", now=100.0)
    who.note(word("a", 1, online=False), now=101.0)
    assert who.must_ask("a", now=102.0)


def test_those_who_were_asked_take_bounded_memory(monkeypatch):
    monkeypatch.setattr(attendance, "MAX_CLIENTS", 3)
    who = Attendance()
    assert all(who.must_ask(f"c{number}", now=0.0) for number in range(10))
    assert len(who._asked) <= 3
