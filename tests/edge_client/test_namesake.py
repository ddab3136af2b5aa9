"""Two clients of one name: exactly one stays, whoever asks first."""

import pytest

from hedgerow_edge_client.namesake import Namesake, Verdict
from hedgerow_transport import Presence, Publication, Topics, decode_message

TOPICS = Topics("default")
ASKED = Verdict.ASKED


def namesake(token: str) -> Namesake:
    return Namesake("pi", topics=TOPICS, token=token)


def birth(token: str, *, to: str = "") -> Publication:
    """Return the birth message of the process with a token, as an answer `to` another one."""
    profile = {"instance": token, "cores": 4}
    message = Presence(client="pi", session=3, online=True, profile=profile)
    said = Publication(topic=TOPICS.presence("pi"), payload=message.encode(), retain=True)
    if not to:
        return said
    one = namesake(token)
    assert one.judge(said.topic, namesake(to).question().payload, retained=False, asking=False) is ASKED
    return one.answer(said)


def verdict(own: str, publication: Publication, *, retained: bool = False, asking: bool = False) -> Verdict:
    return namesake(own).judge(publication.topic, publication.payload, retained=retained, asking=asking)


def test_who_is_there_answers_a_question_and_the_asker_leaves() -> None:
    assert verdict("1", namesake("2").question()) is ASKED
    assert verdict("2", birth("1", to="2"), asking=True) is Verdict.TAKEN
    assert decode_message(birth("1", to="2").payload, Presence).profile == {
        "instance": "1",
        "cores": 4,
        "answers": "2",
    }


def test_who_asks_leaves_also_when_the_other_clock_is_ahead() -> None:
    assert verdict("1", birth("2", to="1"), asking=True) is Verdict.TAKEN


def test_of_two_that_start_together_the_earlier_stays() -> None:
    assert verdict("1", birth("2")) is ASKED
    assert verdict("2", birth("1", to="2")) is Verdict.TAKEN
    # Who hears of an earlier one that has not heard of it asks; who is the earlier one needs no answer.
    assert verdict("2", birth("1")) is Verdict.SUSPECT
    assert verdict("1", birth("2", to="1")) is ASKED


def test_a_birth_of_long_ago_that_is_played_again_throws_nobody_out() -> None:
    for asking in (True, False):
        assert verdict("3", birth("1"), asking=asking) is Verdict.SUSPECT
        assert verdict("3", birth("1", to="2"), asking=asking) is Verdict.SUSPECT


def test_the_question_is_older_than_any_birth_and_is_not_kept() -> None:
    question = namesake("1").question()
    assert not question.retain
    assert (
        namesake("1").judge(question.topic, question.payload, retained=False, asking=True) is Verdict.NOTHING
    )


@pytest.mark.parametrize(
    "publication",
    [
        birth("1"),
        Publication(topic=TOPICS.presence("other"), payload=birth("2").payload),
        Publication(topic=TOPICS.presence("pi"), payload=b""),
        Publication(topic=TOPICS.presence("pi"), payload=b"\xff garbage"),
    ],
)
def test_own_births_strangers_and_garbage_mean_nothing(publication: Publication) -> None:
    assert verdict("1", publication) is Verdict.NOTHING


def test_a_retained_birth_may_be_of_an_earlier_life() -> None:
    assert verdict("2", birth("1"), retained=True, asking=True) is Verdict.NOTHING


def test_tokens_sort_by_the_time_of_the_start() -> None:
    first = Namesake("pi", topics=TOPICS)
    assert first.token < Namesake("pi", topics=TOPICS).token


def test_a_will_in_our_name_means_that_nobody_knows_of_us_any_more() -> None:
    for profile in ({}, {"received_bytes": 12}):
        gone = Presence(client="pi", session=1, online=False, profile=profile).encode()
        will = Publication(topic=TOPICS.presence("pi"), payload=gone)
        assert verdict("1", will) is Verdict.BURIED
        # While we have not been born, or as what was waiting there, it is of an earlier life.
        assert verdict("1", will, asking=True) is Verdict.NOTHING
        assert verdict("1", will, retained=True) is Verdict.NOTHING
