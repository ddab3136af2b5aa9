"""What a guard takes and refuses: signatures, names, counters, revocation."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.transport.conftest import (
    DOWN,
    EXPIRES,
    FARM,
    NOW,
    OFFER,
    PRESENCE,
    Clock,
    D,
    Farm,
    accept,
    decline,
    here,
    manifest,
    offer,
    presence,
    refusal,
)

from hedgerow_transport import (
    BlobRef,
    Delivery,
    DeliveryReport,
    Guard,
    MessageRefused,
    TopicError,
    Topics,
)

# -- what is taken ----------------------------------------------------------------------------------------


def test_what_one_side_signs_the_other_opens(lead: Guard, a: Guard) -> None:
    down = {FARM.manifest: manifest(), FARM.coordinator: here(), DOWN: accept()}
    up = {OFFER: offer(), FARM.up("a", "decline"): decline(), PRESENCE: presence("a")}
    for topic, message in down.items():
        sealed = lead.seal(topic, message)
        assert len(sealed) == len(message) + 83
        assert a.open(topic, sealed) == message
    for topic, message in up.items():
        assert lead.open(topic, a.seal(topic, message)) == message


def test_chunks_and_requests_are_not_signed(lead: Guard, a: Guard) -> None:
    chunk = b"\x01chunk"
    for guard, other, topic in (
        (lead, a, FARM.blob(D)),
        (a, lead, FARM.up("a", "chunk")),
        (a, lead, FARM.need),
    ):
        assert guard.seal(topic, chunk) == chunk
        assert other.open(topic, chunk) == chunk


def test_a_topic_that_is_none_of_ours_is_no_refusal(lead: Guard) -> None:
    with pytest.raises(TopicError):
        lead.open("hedgerow/1/barn/manifest", b"x")


def test_retained_messages_are_taken_at_every_connect(lead: Guard, a: Guard) -> None:
    board = {
        FARM.manifest: lead.seal(FARM.manifest, manifest()),
        FARM.coordinator: lead.seal(FARM.coordinator, here()),
    }
    for _ in range(3):
        for topic, payload in board.items():
            a.open(topic, payload)
    born = a.seal(PRESENCE, presence("a"))
    assert {lead.open(PRESENCE, born) for _ in range(3)} == {presence("a")}


def test_messages_may_overtake_each_other_a_little(lead: Guard, a: Guard) -> None:
    early, late = lead.seal(DOWN, accept()), lead.seal(DOWN, accept(round_number=2))
    a.open(DOWN, late)
    a.open(DOWN, early)
    assert refusal(a, DOWN, early) == ("the coordinator", "replayed")
    assert refusal(a, DOWN, late) == ("the coordinator", "replayed")


# -- what is refused --------------------------------------------------------------------------------------


def test_unsigned_messages_are_refused_with_what_to_do(lead: Guard, a: Guard) -> None:
    assert refusal(lead, OFFER, offer()) == ("a", "unsigned")
    assert refusal(a, FARM.manifest, manifest()) == ("the coordinator", "unsigned")
    with pytest.raises(
        MessageRefused, match="a message of a is not signed: start that client with --credentials"
    ):
        lead.open(OFFER, offer())
    with pytest.raises(MessageRefused, match="start it with --credentials keys/coordinator"):
        a.open(FARM.manifest, manifest())
    with pytest.raises(MessageRefused, match="it is empty, somebody has cleared it at the broker"):
        a.open(FARM.manifest, b"")


def test_a_stranger_is_refused_chunks_and_all(farm: Farm, lead: Guard, clock: Clock, tmp_path: Path) -> None:
    stranger = clock.guard(Farm(tmp_path / "other", "c").of("c"))
    topic = FARM.up("c", "offer")
    assert refusal(lead, topic, stranger.seal(topic, offer())) == ("c", "stranger")
    assert refusal(lead, FARM.up("c", "chunk"), b"\x01chunk") == ("c", "stranger")
    with pytest.raises(
        MessageRefused, match="c has no credentials here: to let it in: hedgerow keys token c"
    ):
        lead.open(topic, stranger.seal(topic, offer()))


def test_a_device_of_another_federation_with_our_name_is_forged(
    lead: Guard, clock: Clock, tmp_path: Path
) -> None:
    other = clock.guard(Farm(tmp_path / "other", "a").of("a"))
    assert refusal(lead, OFFER, other.seal(OFFER, offer())) == ("a", "forged")


def test_a_device_that_is_revoked_while_the_coordinator_runs_is_out(
    farm: Farm, lead: Guard, a: Guard, clock: Clock
) -> None:
    assert lead.open(OFFER, a.seal(OFFER, offer())) == offer()
    farm.revoke("a")
    assert refusal(lead, OFFER, a.seal(OFFER, offer())) == ("a", "revoked")
    assert refusal(lead, FARM.up("a", "chunk"), b"\x01chunk") == ("a", "revoked")
    assert refusal(lead, PRESENCE, a.seal(PRESENCE, presence("a", online=False), will=True)) == (
        "a",
        "revoked",
    )
    # It joins again: its new key counts anew, its old one is nobody's.
    again = clock.guard(farm.add("a", folder="a2"))
    assert lead.open(OFFER, again.seal(OFFER, offer())) == offer()
    assert refusal(lead, OFFER, a.seal(OFFER, offer())) == ("a", "forged")


def test_a_register_that_is_damaged_meanwhile_lets_nobody_in(farm: Farm, lead: Guard, a: Guard) -> None:
    farm.register.write_text("{")
    with pytest.raises(MessageRefused, match=r"a has no credentials here: .*devices.json is damaged"):
        lead.open(OFFER, a.seal(OFFER, offer()))
    farm.save()
    assert lead.open(OFFER, a.seal(OFFER, offer())) == offer()


def test_credentials_end(lead: Guard, a: Guard, clock: Clock) -> None:
    sealed = a.seal(OFFER, offer())
    clock.unix = EXPIRES + 1
    assert refusal(lead, OFFER, sealed) == ("a", "expired")


def test_what_a_device_says_counts_for_its_own_topics_in_its_namespace(
    farm: Farm, lead: Guard, a: Guard, clock: Clock
) -> None:
    sealed = a.seal(OFFER, offer())
    assert refusal(lead, FARM.up("b", "offer"), sealed) == ("b", "forged")
    assert refusal(lead, FARM.up("a", "decline"), sealed) == ("a", "forged")
    assert refusal(lead, PRESENCE, sealed) == ("a", "forged")
    barn = Topics("barn")
    assert refusal(clock.guard(farm.of("coordinator"), topics=barn), barn.up("a", "offer"), sealed) == (
        "a",
        "forged",
    )
    # Nor can a device speak for the coordinator.
    b = clock.guard(farm.of("b"))
    forged = replace_topic(a, FARM.manifest, manifest())
    assert refusal(b, FARM.manifest, forged) == ("the coordinator", "forged")
    # Unhurt by all this, the message itself is good.
    assert lead.open(OFFER, sealed) == offer()


def replace_topic(guard: Guard, topic: str, message: bytes) -> bytes:
    """Sign what a guard would not sign, with its key."""
    from hedgerow_transport.envelope import Envelope

    key = guard._credentials.signing_key
    return Envelope(counter=2**50, issued=NOW).seal(message, topic=topic, key=key)


def test_a_change_of_any_byte_is_forged(lead: Guard, a: Guard) -> None:
    sealed = a.seal(OFFER, offer())
    for place in range(1, len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 0x40
        assert refusal(lead, OFFER, bytes(changed)) == ("a", "forged"), place
    assert refusal(lead, OFFER, b"\x00" + sealed[1:]) == ("a", "unsigned")
    assert refusal(lead, OFFER, sealed[:-1]) == ("a", "forged")
    assert refusal(lead, OFFER, sealed[:50]) == ("a", "forged")
    assert refusal(lead, OFFER, sealed + bytes(20_000)) == ("a", "forged")
    assert lead.open(OFFER, sealed) == offer()


def test_a_counter_beyond_all_bounds_is_forged(farm: Farm, lead: Guard, a: Guard) -> None:
    from hedgerow_transport.envelope import Envelope

    key = farm.of("a").signing_key
    sealed = Envelope(counter=2**63, issued=NOW).seal(offer(), topic=OFFER, key=key)
    assert refusal(lead, OFFER, sealed) == ("a", "forged")
    assert lead.open(OFFER, a.seal(OFFER, offer())) == offer()


def test_a_message_is_taken_once(lead: Guard, a: Guard) -> None:
    for topic, message in ((OFFER, offer()), (FARM.up("a", "decline"), decline())):
        sealed = a.seal(topic, message)
        assert lead.open(topic, sealed) == message
        assert refusal(lead, topic, sealed) == ("a", "replayed")


def test_a_message_is_taken_once_over_restarts_of_the_coordinator(farm: Farm, a: Guard, clock: Clock) -> None:
    first = clock.guard(farm.of("coordinator"))
    sealed, held_back = a.seal(OFFER, offer()), a.seal(OFFER, offer(round_number=2))
    first.open(OFFER, a.seal(OFFER, offer(round_number=3)))
    first.open(OFFER, sealed)
    first.close()
    second = clock.guard(farm.of("coordinator"))
    assert refusal(second, OFFER, sealed) == ("a", "replayed")
    # What was on its way at the restart and is older than what was seen is lost, and offered again.
    assert refusal(second, OFFER, held_back) == ("a", "replayed")
    assert second.open(OFFER, a.seal(OFFER, offer(round_number=2))) == offer(round_number=2)


def test_a_killed_coordinator_knows_what_came_half_a_minute_before(
    farm: Farm, a: Guard, clock: Clock
) -> None:
    first = clock.guard(farm.of("coordinator"))
    old = a.seal(OFFER, offer())
    first.open(OFFER, old)
    clock += 30
    first.tick()
    young = a.seal(OFFER, offer(round_number=2))
    first.open(OFFER, young)
    first.tick()
    second = clock.guard(farm.of("coordinator"))
    assert refusal(second, OFFER, old) == ("a", "replayed")
    assert second.open(OFFER, young) == offer(round_number=2)


def test_a_device_goes_on_counting_over_restarts(farm: Farm, lead: Guard, clock: Clock) -> None:
    for _ in range(3):
        guard = clock.guard(farm.of("a"))
        assert lead.open(OFFER, guard.seal(OFFER, offer())) == offer()
        clock.unix -= 3600


def test_an_older_manifest_is_replayed_also_after_a_power_cut(farm: Farm, lead: Guard, clock: Clock) -> None:
    first, second = lead.seal(FARM.manifest, manifest()), lead.seal(FARM.manifest, manifest(round_number=2))
    device = clock.guard(farm.of("a"))
    device.open(FARM.manifest, first)
    device.open(FARM.manifest, second)
    device = clock.guard(farm.of("a"))
    assert refusal(device, FARM.manifest, first) == ("the coordinator", "replayed")
    assert device.open(FARM.manifest, second) == manifest(round_number=2)


# -- deliveries -------------------------------------------------------------------------------------------


def delivery(serial: int = 0) -> bytes:
    return Delivery(model=BlobRef(kind="export", digest=D, size=9), serial=serial).encode()


def report(outcome: str) -> bytes:
    return DeliveryReport(model=D, outcome=outcome).encode()


def test_an_older_delivery_is_replayed_also_after_a_power_cut(farm: Farm, lead: Guard, clock: Clock) -> None:
    first, second = lead.seal(FARM.delivery, delivery(1)), lead.seal(FARM.delivery, delivery(2))
    device = clock.guard(farm.of("a"))
    device.open(FARM.delivery, first)
    device.open(FARM.delivery, second)
    device = clock.guard(farm.of("a"))
    assert refusal(device, FARM.delivery, first) == ("the coordinator", "replayed")
    assert device.open(FARM.delivery, second) == delivery(2)  # it is retained, and comes at every connect
    # What another delivery counts does not hold up the manifest, nor the other way round.
    assert device.open(FARM.manifest, lead.seal(FARM.manifest, manifest())) == manifest()


def test_a_delivery_is_good_for_two_days(lead: Guard, a: Guard, clock: Clock) -> None:
    sealed = lead.seal(FARM.delivery, delivery())
    clock.unix += 48 * 3600 - 1
    assert a.open(FARM.delivery, sealed) == delivery()
    clock.unix += 2
    assert refusal(a, FARM.delivery, sealed) == ("the coordinator", "expired")


def test_only_the_coordinator_delivers_and_only_a_device_reports(
    farm: Farm, lead: Guard, a: Guard, clock: Clock
) -> None:
    topic, b = FARM.up("a", "report"), clock.guard(farm.of("b"))
    assert refusal(b, FARM.delivery, delivery()) == ("the coordinator", "unsigned")
    assert refusal(lead, topic, b.seal(topic, report("accepted"))) == ("a", "forged")
    assert a.seal(FARM.delivery, delivery()) == delivery()  # it cannot sign that


def test_the_last_report_comes_again_and_an_older_one_does_not(lead: Guard, a: Guard) -> None:
    topic = FARM.up("a", "report")
    first, second = a.seal(topic, report("trying")), a.seal(topic, report("accepted"))
    for sealed in (first, second, second):
        lead.open(topic, sealed)
    assert refusal(lead, topic, first) == ("a", "replayed")
