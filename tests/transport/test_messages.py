"""Every message: round trip, limits, and what a decoder must survive."""

from __future__ import annotations

import dataclasses
import sys
import time
import tracemalloc
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow_transport import (
    MESSAGE_TYPES,
    Accept,
    Ack,
    BlobRef,
    Decline,
    Manifest,
    Message,
    MessageError,
    Offer,
    Rebirth,
    RoundPlan,
    Route,
    cohort_hash,
    decode_down,
    decode_message,
    encode_cohort,
)

FUZZ = Path(__file__).parents[1] / "fuzz"
if str(FUZZ) not in sys.path:
    sys.path.insert(0, str(FUZZ))

from message_samples import DIGEST, MANIFEST, PLAN, SAMPLES, UPDATE  # noqa: E402  # needs the path above

EVERY = pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)


@EVERY
def test_what_is_encoded_comes_back(message: Message) -> None:
    assert decode_message(message.encode(), type(message)) == message
    assert message.encode() == message.encode()


def test_every_type_has_a_sample() -> None:
    assert [type(message) for message in SAMPLES] == list(MESSAGE_TYPES)


def test_tags_and_keys_are_unique_and_short() -> None:
    assert len({type(message).TAG for message in SAMPLES}) == len(SAMPLES)
    for message in SAMPLES:
        keys = [entry.metadata["key"] for entry in dataclasses.fields(message)]
        assert len(set(keys)) == len(keys)
        assert all(len(key) == 1 and key not in "vt" for key in keys)


def test_bytes_on_the_wire() -> None:
    # Written down by hand from the tables in transport/README.md: a map of 7, keys in the order of the table.
    ack = Ack(run="run-1", round=3, digest=DIGEST, status="late", reason="over")
    assert ack.encode().hex() == (
        "87"
        + "a17601"
        + "a17408"
        + "a172a572756e2d31"
        + "a16e03"
        + "a164c410"
        + DIGEST.hex()
        + "a17302"
        + "a179a46f766572"
    )
    assert len(MANIFEST.encode()) == 172


@EVERY
def test_every_truncation_is_refused(message: Message) -> None:
    payload = message.encode()
    for length in range(len(payload)):
        with pytest.raises(MessageError):
            decode_message(payload[:length], type(message))
    with pytest.raises(MessageError):
        decode_message(payload + b"\x00", type(message))


@EVERY
def test_every_flipped_byte_gives_a_message_or_our_error(message: Message) -> None:
    payload = message.encode()
    for place in range(len(payload)):
        for flip in (0x01, 0x20, 0x80, 0xFF):
            damaged = bytearray(payload)
            damaged[place] ^= flip
            try:
                decoded = decode_message(bytes(damaged), type(message))
            except MessageError:
                continue
            assert decode_message(decoded.encode(), type(message)) == decoded


@EVERY
def test_unknown_fields_are_ignored(message: Message) -> None:
    plain = msgpack.unpackb(message.encode())
    plain["new"] = {"deep": [1, 2, b"x"]}
    assert decode_message(msgpack.packb(plain), type(message)) == message


@EVERY
def test_an_unknown_version_is_refused_by_name(message: Message) -> None:
    plain = msgpack.unpackb(message.encode()) | {"v": 2}
    with pytest.raises(MessageError, match=r"version 2 is not known here") as caught:
        decode_message(msgpack.packb(plain), type(message))
    assert (caught.value.message, caught.value.field) == (type(message).__name__, "version")


@EVERY
def test_a_missing_field_or_a_wrong_type_names_the_field(message: Message) -> None:
    plain = msgpack.unpackb(message.encode())
    for entry in dataclasses.fields(message):
        key = entry.metadata["key"]
        for wrong in ([[]], {"a": b"b"}, "\x1b[2J", -(2**60), 2**64 - 1, b"", None):
            field, shown = _field_at_fault(msgpack.packb(plain | {key: wrong}), message, entry.name)
            assert field == entry.name
            assert "\x1b" not in shown
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            less = {other: value for other, value in plain.items() if other != key}
            with pytest.raises(MessageError, match=f"{entry.name}: is missing"):
                decode_message(msgpack.packb(less), type(message))


def _field_at_fault(payload: bytes, message: Message, field: str) -> tuple[str, str]:
    """Return the field that the error names and the error; or, when it was good, the field and its value."""
    try:
        decoded = decode_message(payload, type(message))
    except MessageError as error:
        return error.field, str(error)
    return field, str(getattr(decoded, field))


@EVERY
def test_another_message_on_the_topic_is_refused(message: Message) -> None:
    for other in SAMPLES:
        if type(other) is not type(message):
            with pytest.raises(MessageError):
                decode_message(other.encode(), type(message))


GARBAGE = (
    b"",
    b"\xc1",
    b"\x91" * 990,  # nested a thousand deep
    b"\x81\xa1a" * 300,
    b"\xdd\xff\xff\xff\xff",  # four billion entries
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdc\xff\xff" * 300,
    (b"\xdc\x01\x00") * 320,
    b"\x82\xa1v\x01\xa1v\x01",  # the same key twice
    b"\x81\xa1v\xcb" + np.array(np.nan, ">f8").tobytes(),
    b"\x81\x01\x02",  # a key that is a number
    b"\x81\xc4\x01v\x01",  # a key that is bytes
    b"\x81\xa1v\xd4\x05x",  # an extension type
    b"\x81\xa1v\xd6\xff\x00\x00\x00\x00",  # the timestamp extension
    b"\x81\xa1v\xc7\x0c\xff" + b"\xff" * 12,
    b"\x81\xa2\xff\xfe\x01",  # not UTF-8
    b"\x90",
    b"\x01",
    bytes(2000),
    bytes(1 << 20),
)


@EVERY
@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_promptly_in_bounded_memory(message: Message, garbage: bytes) -> None:
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(MessageError):
        decode_message(garbage, type(message))
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 0.5
    assert peak < 4 << 20


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=5),
    max_leaves=10,
)


@EVERY
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_only_our_error_comes_out(message: Message, data: st.DataObject) -> None:
    kind = type(message)
    plain = msgpack.unpackb(message.encode())
    payload = data.draw(
        st.binary(max_size=300)
        | PLAIN.map(msgpack.packb)
        | st.tuples(st.sampled_from(sorted(plain)), PLAIN).map(
            lambda change: msgpack.packb(plain | dict([change]))
        )
    )
    try:
        decoded = decode_message(payload, kind)
    except MessageError as refused:
        sentence = str(refused)
    else:
        sentence = ""
        assert decode_message(decoded.encode(), kind) == decoded
    assert len(sentence) < 600


def test_down_is_told_apart_by_tags() -> None:
    for message in SAMPLES:
        if isinstance(message, (Accept, Ack, Route, Rebirth)):
            assert decode_down(message.encode()) == message
        else:
            with pytest.raises(MessageError):
                decode_down(message.encode())


def test_the_largest_manifest_stays_below_1000_bytes() -> None:
    blob = BlobRef(kind="update", digest=DIGEST, size=2**32 - 1)
    most = 2**31 - 1
    largest = Manifest(
        run="r" * 64,
        state="failed",
        round=most,
        attempt=most,
        version=most,
        layout=DIGEST,
        mask=DIGEST,
        model=DIGEST,
        plan=blob,
        steps=(blob,) * 8,
        base_version=most,
        cohort=encode_cohort(f"pi-{number}" for number in range(120)),
        deadline_s=1.0,
        chunk_bytes=1 << 20,
        reason="€" * 500,
    )
    assert len(largest.encode()) == 983
    assert len(largest.reason.encode()) <= 80
    assert largest.reason.endswith("…")


def test_a_cohort_of_121_is_refused() -> None:
    with pytest.raises(MessageError, match="holds 121 clients, at most 120 fit"):
        encode_cohort(f"pi-{number}" for number in range(121))
    with pytest.raises(MessageError, match=r"Manifest.cohort: must have 0 to 480 bytes in steps of 4, has 3"):
        dataclasses.replace(MANIFEST, cohort=b"abc")


def test_a_manifest_invites_its_cohort_or_everybody() -> None:
    assert [MANIFEST.invites(client) for client in ("pi-1", "pi-2", "pi-3")] == [True, True, False]
    assert dataclasses.replace(MANIFEST, cohort=b"").invites("pi-3")
    # A hash that straddles two others must not count.
    straddled = cohort_hash("pi-3")
    shifted = b"\x00\x00" + straddled + b"\x00\x00"
    assert not dataclasses.replace(MANIFEST, cohort=shifted).invites("pi-3")


def test_values_are_brought_to_one_form() -> None:
    offer = Offer(
        run="run-1",
        round=np.int64(3),  # type: ignore[arg-type]
        update=UPDATE,
        num_samples=np.int32(10),  # type: ignore[arg-type]
        metrics={"loss": np.float32(0.5)},  # type: ignore[dict-item]
        train_s=2,
    )
    assert (type(offer.round), type(offer.train_s), type(offer.metrics["loss"])) == (int, float, float)
    assert decode_message(offer.encode(), Offer) == offer
    given_metrics = {"loss": 1.0}
    taken = dataclasses.replace(offer, metrics=given_metrics)
    given_metrics["loss"] = float("nan")
    assert taken.metrics == {"loss": 1.0}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"round": -1}, "Offer.round: must be an integer from 0 to 2147483647, got -1"),
        ({"round": True}, "Offer.round: must be an integer, got True"),
        ({"run": "a b"}, "Offer.run: must be text like"),
        ({"num_samples": 0}, "Offer.num_samples: must be an integer from 1 to"),
        ({"metrics": {"loss": float("nan")}}, "Offer.metrics: must be a finite number"),
        ({"metrics": {"loss": float("inf")}}, "Offer.metrics: holds inf"),
        ({"metrics": {str(i): 0.0 for i in range(17)}}, "Offer.metrics: has 17 entries, at most 16"),
        ({"update": b"x"}, "Offer.update: must be a BlobRef, is a bytes"),
        ({"chunk_bytes": 2**21}, "Offer.chunk_bytes: must be an integer from 16 to 1048576"),
        ({"estimate": bytes(8)}, "Offer.estimate: must have 0 to 16 bytes in steps of 16, has 8"),
        ({"train_s": 10**400}, "Offer.train_s: must be a finite number"),
    ],
)
def test_a_wrong_value_is_a_sentence(changes: dict[str, object], sentence: str) -> None:
    offer = Offer(run="run-1", round=3, update=UPDATE, num_samples=10)
    with pytest.raises(MessageError) as caught:
        dataclasses.replace(offer, **changes)  # type: ignore[arg-type]
    assert str(caught.value).startswith(sentence)


def test_messages_from_before_there_was_a_choice_of_feedback_are_valid() -> None:
    plan = msgpack.unpackb(PLAN.encode())
    offer = msgpack.unpackb(Offer(run="run-1", round=3, update=UPDATE, num_samples=10).encode())
    del plan["f"], offer["e"]
    assert decode_message(msgpack.packb(plan), RoundPlan).feedback == "residual"
    assert decode_message(msgpack.packb(offer), Offer).estimate == b""
    # A word of a later version is one that a client can name.
    later = msgpack.packb(plan | {"f": "ef99"})
    assert decode_message(later, RoundPlan).feedback == "ef99"


def test_codec_config_is_json_and_shallow() -> None:
    for wrong in (
        {"a": b"x"},
        {"a": {"b": {"c": {"d": {}}}}},
        {"a": 2**60},
        {"a" * 65: 1},
        {"a": float("nan")},
        [1],
    ):
        with pytest.raises(MessageError, match=r"RoundPlan\.codec"):
            dataclasses.replace(PLAN, codec=wrong)  # type: ignore[arg-type]


def test_terminal_codes_never_reach_a_terminal() -> None:
    assert Decline(run="r", round=1, reason="a\x1b[2Jb\nc\u202e").reason == "a [2Jb c "
    assert Decline(run="r", round=1, reason="bad \ud800 half").reason == "bad   half"
