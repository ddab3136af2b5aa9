"""Who is not heard, from when on, and until when."""

from hedgerow_coordinator.quarantine import (
    BAD_PAUSE_S,
    MAX_BAD,
    MAX_SENDERS,
    MAX_WORDS,
    QUARANTINE_S,
    WORD_PAUSE_S,
    Quarantine,
)


def test_garbage_now_and_then_is_an_accident():
    quarantine = Quarantine()
    for turn in range(1000):
        assert quarantine.note_bad("pi", now=turn * BAD_PAUSE_S * 1.01) is None
    assert not quarantine.holds("pi", now=0.0)


def test_a_sender_of_garbage_is_held_once_and_then_heard_again():
    quarantine = Quarantine()
    reasons = [quarantine.note_bad("pi", now=5.0) for _ in range(MAX_BAD + 1)]
    assert reasons[:-1] == [None] * MAX_BAD
    assert reasons[-1] == f"{MAX_BAD} of its messages were garbage"
    assert quarantine.holds("pi", now=5.0)
    assert quarantine.holds("pi", now=4.9 + QUARANTINE_S)
    assert quarantine.num_dropped == 2
    assert not quarantine.holds("other", now=6.0)
    assert not quarantine.holds("pi", now=5.0 + QUARANTINE_S)
    # It begins with a clean record.
    assert quarantine.note_bad("pi", now=5.0 + QUARANTINE_S) is None


def test_a_flood_of_good_messages_is_held_too():
    quarantine = Quarantine()
    reasons = [quarantine.note_words("pi", now=turn * WORD_PAUSE_S / 10) for turn in range(2 * MAX_WORDS)]
    (first,) = [place for place, reason in enumerate(reasons) if reason]
    assert MAX_WORDS <= first <= 1.2 * MAX_WORDS
    assert all(quarantine.note_words("pi-2", now=turn * WORD_PAUSE_S) is None for turn in range(2000))


def test_names_without_number_take_bounded_room_and_free_nobody_who_speaks():
    quarantine = Quarantine()
    for _ in range(MAX_BAD + 1):
        quarantine.note_bad("mallory", now=0.0)
    for number in range(MAX_SENDERS - 1):
        quarantine.note_bad(f"n{number}", now=1.0)
    assert quarantine.holds("mallory", now=2.0)
    quarantine.note_bad("one more", now=3.0)
    assert len(quarantine._senders) == MAX_SENDERS
