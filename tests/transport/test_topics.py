from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow_transport import ParsedTopic, TopicError, Topics, matches, parse_topic

D = bytes(range(16))
FARM = Topics("farm")


def test_topics_of_a_namespace() -> None:
    assert FARM.manifest == "hedgerow/1/farm/manifest"
    assert FARM.blob(D) == "hedgerow/1/farm/blob/000102030405060708090a0b0c0d0e0f"
    assert FARM.up("pi-3", "offer") == "hedgerow/1/farm/up/pi-3/offer"
    assert FARM.down("pi-3") == "hedgerow/1/farm/down/pi-3"
    assert FARM.presence("pi-3") == "hedgerow/1/farm/presence/pi-3"


def test_every_topic_parses_to_what_made_it() -> None:
    made = {
        FARM.manifest: ParsedTopic(kind="manifest"),
        FARM.coordinator: ParsedTopic(kind="coordinator"),
        FARM.need: ParsedTopic(kind="need"),
        FARM.blob(D): ParsedTopic(kind="blob", digest=D),
        FARM.down("a"): ParsedTopic(kind="down", client="a"),
        FARM.presence("a"): ParsedTopic(kind="presence", client="a"),
        **{
            FARM.up("a", kind): ParsedTopic(kind=kind, client="a")
            for kind in ("offer", "chunk", "decline", "sync")
        },
    }
    assert {topic: FARM.parse(topic) for topic in made} == made
    assert all(topic.count("/") < 7 for topic in made)


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "hedgerow/1/farm",
        "hedgerow/2/farm/manifest",
        "hedgerow/1/other/manifest",
        "hedgerow/1/farm/manifest/x",
        "hedgerow/1/farm/manifest\n",
        "hedgerow/1/farm/up/pi-3",
        "hedgerow/1/farm/up/pi-3/ack",
        "hedgerow/1/farm/up/PI/offer",
        "hedgerow/1/farm/blob/00",
        "hedgerow/1/farm/blob/000102030405060708090A0B0C0D0E0F",
        "hedgerow/1/farm/down/" + "a" * 33,
        "hedgerow/1/farm/down/é",
    ],
)
def test_foreign_topics_are_refused(foreign: str) -> None:
    with pytest.raises(TopicError):
        FARM.parse(foreign)


@given(st.text())
def test_any_text_parses_or_not(topic: str) -> None:
    assert parse_topic(topic) is None


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a" * 33, "a/b", "a+", "#", "a b", "a\n"])
def test_wrong_names_are_refused(name: str) -> None:
    with pytest.raises(TopicError):
        Topics(name)
    with pytest.raises(TopicError):
        FARM.down(name)


def test_filters_select_what_a_side_needs() -> None:
    client, coordinator = FARM.client_filters("a"), FARM.coordinator_filters()
    assert len(client) <= 8

    def reaches(filters: tuple[str, ...], topic: str) -> bool:
        return any(matches(wish, topic) for wish in filters)

    down = (FARM.manifest, FARM.coordinator, FARM.blob(D), FARM.down("a"), FARM.delivery)
    up = (FARM.need, FARM.up("a", "offer"), FARM.up("b", "chunk"), FARM.presence("a"), FARM.up("a", "report"))
    assert [reaches(client, topic) for topic in down + up] == [True] * 5 + [False] * 5
    assert [reaches(coordinator, topic) for topic in down + up] == [False] * 5 + [True] * 5
    assert not reaches(client, FARM.down("b"))
    deliverer = FARM.deliverer_filters()
    wanted = (FARM.need, FARM.up("a", "report"), FARM.presence("a"), FARM.manifest, FARM.delivery)
    assert all(reaches(deliverer, topic) for topic in wanted)
    assert not any(reaches(deliverer, FARM.up("a", kind)) for kind in ("offer", "chunk", "sync"))


@pytest.mark.parametrize(
    ("topic_filter", "topic", "selected"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/b", "/b", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
    ],
)
def test_matching_as_in_the_standard(topic_filter: str, topic: str, selected: bool) -> None:
    assert matches(topic_filter, topic) is selected
