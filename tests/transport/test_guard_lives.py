"""Guards over restarts: wills, namesakes, clocks, files, and a link that is signed."""

from __future__ import annotations

import pytest
from tests.transport.conftest import (
    FARM,
    MADE,
    NOW,
    OFFER,
    PRESENCE,
    Clock,
    D,
    Farm,
    drain,
    here,
    manifest,
    offer,
    presence,
    refusal,
)

from hedgerow_transport import (
    BlobRef,
    CredentialsError,
    Guard,
    Manifest,
    MemoryHub,
    MessageError,
    MessageRefused,
    Received,
    Refusals,
    Refused,
    SignedLink,
    SignedWill,
    encode_cohort,
)

# -- wills ------------------------------------------------------------------------------------------------


def test_a_will_ends_a_birth_once(lead: Guard, a: Guard) -> None:
    gone = presence("a", online=False)
    will = SignedWill(a, topic=PRESENCE, make=lambda: gone)
    for _ in range(3):
        testament, born = will().payload, a.seal(PRESENCE, presence("a"))
        lead.open(PRESENCE, born)
        lead.open(PRESENCE, born)
        lead.open(PRESENCE, testament)
        # Retained, it comes again, until there is a new birth.
        lead.open(PRESENCE, testament)
        assert refusal(lead, PRESENCE, born) == ("a", "replayed")
    again = a.seal(PRESENCE, presence("a"))
    lead.open(PRESENCE, again)
    assert refusal(lead, PRESENCE, testament) == ("a", "replayed")
    assert lead.open(PRESENCE, again) == presence("a")


def test_a_will_of_the_life_before_may_be_late(farm: Farm, lead: Guard, clock: Clock) -> None:
    gone = presence("a", online=False)
    first, second = clock.guard(farm.of("a")), clock.guard(farm.of("a"))
    late = SignedWill(first, topic=PRESENCE, make=lambda: gone)().payload
    lead.open(PRESENCE, first.seal(PRESENCE, presence("a")))
    will = SignedWill(second, topic=PRESENCE, make=lambda: gone)().payload
    lead.open(PRESENCE, second.seal(PRESENCE, presence("a", session=2)))
    # Whoever counts sessions knows that it means nothing.
    assert lead.open(PRESENCE, late) == gone
    lead.open(PRESENCE, second.seal(PRESENCE, presence("a", session=2)))
    assert lead.open(PRESENCE, will) == gone


def test_on_a_full_disk_the_will_before_is_better_than_none(farm: Farm, a: Guard) -> None:
    will = SignedWill(a, topic=PRESENCE, make=lambda: presence("a", online=False))
    lock = farm.of("a").directory / "counter.lock"
    lock.unlink()
    lock.mkdir()
    payloads = [will().payload for _ in range(300)]
    # What was reserved is used up, one number for each connection.
    assert len(set(payloads)) == 255
    assert len(set(payloads[254:])) == 1


def test_births_that_a_will_has_ended_stay_ended_over_restarts(farm: Farm, a: Guard, clock: Clock) -> None:
    will = SignedWill(a, topic=PRESENCE, make=lambda: presence("a", online=False))().payload
    born = a.seal(PRESENCE, presence("a"))
    first = clock.guard(farm.of("coordinator"))
    first.open(PRESENCE, born)
    first.open(PRESENCE, will)
    first.close()
    second = clock.guard(farm.of("coordinator"))
    assert refusal(second, PRESENCE, born) == ("a", "replayed")
    assert second.open(PRESENCE, will) == presence("a", online=False)


def test_a_farewell_ends_a_birth(lead: Guard, a: Guard) -> None:
    born = a.seal(PRESENCE, presence("a"))
    lead.open(PRESENCE, born)
    lead.open(PRESENCE, a.seal(PRESENCE, presence("a", online=False)))
    assert refusal(lead, PRESENCE, born) == ("a", "replayed")


# -- namesakes --------------------------------------------------------------------------------------------


def test_a_namesake_is_heard_and_overtaken(farm: Farm, lead: Guard, clock: Clock) -> None:
    first, second = clock.guard(farm.of("a")), clock.guard(farm.of("a"))
    lead.open(PRESENCE, first.seal(PRESENCE, presence("a")))
    question = second.seal(PRESENCE, presence("a", online=False, session=0))
    lead.open(PRESENCE, question)
    # The one that was there answers; its number must be above that of the question, or nobody believes it.
    assert first.open(PRESENCE, question) == presence("a", online=False, session=0)
    assert lead.open(PRESENCE, first.seal(PRESENCE, presence("a"))) == presence("a")


def test_a_rival_coordinator_is_one_of_today(lead: Guard, clock: Clock) -> None:
    state = lead.seal(FARM.coordinator, here())
    clock += 12 * 3600
    assert lead.open(FARM.coordinator, state) == here()
    clock += 13 * 3600
    assert refusal(lead, FARM.coordinator, state) == ("the coordinator", "replayed")


# -- clocks -----------------------------------------------------------------------------------------------


def test_a_manifest_is_good_for_two_days(lead: Guard, a: Guard, clock: Clock) -> None:
    sealed = lead.seal(FARM.manifest, manifest())
    clock += 48 * 3600
    assert a.open(FARM.manifest, sealed) == manifest()
    clock += 1
    assert refusal(a, FARM.manifest, sealed) == ("the coordinator", "expired")
    last = lead.seal(FARM.manifest, manifest(state="finished"))
    clock += 364 * 86_400
    assert a.open(FARM.manifest, last) == manifest(state="finished")


@pytest.mark.parametrize("wrong", [0, MADE - 1, NOW - 10])
def test_a_clock_that_is_behind_judges_no_expiry_but_numbers(farm: Farm, wrong: int) -> None:
    gateway, device = Clock(unix=NOW), Clock(unix=wrong)
    lead, a = gateway.guard(farm.of("coordinator")), device.guard(farm.of("a"))
    first, second = lead.seal(FARM.manifest, manifest()), lead.seal(FARM.manifest, manifest(round_number=2))
    assert a.open(FARM.manifest, first) == manifest()
    a.open(FARM.manifest, second)
    assert refusal(a, FARM.manifest, first) == ("the coordinator", "replayed")
    # Its own messages count all the same.
    assert lead.open(OFFER, a.seal(OFFER, offer())) == offer()


def test_a_gateway_whose_clock_was_wrong_is_believed_again(farm: Farm, a: Guard) -> None:
    gateway = Clock(unix=10.0)
    lead = gateway.guard(farm.of("coordinator"))
    assert refusal(a, FARM.manifest, lead.seal(FARM.manifest, manifest())) == ("the coordinator", "expired")
    gateway.unix = NOW
    assert a.open(FARM.manifest, lead.seal(FARM.manifest, manifest())) == manifest()
    # And one that was ahead does not send devices away when it is set back.
    gateway.unix = NOW + 10 * 365 * 86_400
    a.open(FARM.manifest, lead.seal(FARM.manifest, manifest(round_number=2)))
    gateway.unix = NOW
    assert a.open(FARM.manifest, lead.seal(FARM.manifest, manifest(round_number=3))) == manifest(
        round_number=3
    )


# -- sizes ------------------------------------------------------------------------------------------------


def test_every_manifest_that_a_coordinator_makes_is_below_a_kilobyte(lead: Guard) -> None:
    ref = BlobRef(kind="model_delta", digest=D, size=2**32 - 1)
    big = 2**31 - 1
    longest = {
        "run": "r" * 64,
        "round": big,
        "attempt": big,
        "version": big,
        "layout": D,
        "mask": D,
        "model": D,
        "plan": ref,
        "steps": (ref,) * 8,
        "base_version": big,
        "deadline_s": 1234567.5,
        "chunk_bytes": 1 << 20,
    }
    cohort = encode_cohort(f"c{number}" for number in range(120))
    full = Manifest(state="round", cohort=cohort, **longest)  # type: ignore[arg-type]
    failed = Manifest(state="failed", reason="x" * 80, **longest)  # type: ignore[arg-type]
    assert len(lead.seal(FARM.manifest, full.encode())) <= 999
    assert len(lead.seal(FARM.manifest, failed.encode())) <= 999
    both = Manifest(state="failed", reason="x" * 80, cohort=cohort, **longest)  # type: ignore[arg-type]
    with pytest.raises(MessageError, match="bytes with its signature"):
        lead.seal(FARM.manifest, both.encode())


# -- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["{", '{"highest": [], "issued": 1}', '{"highest": {}}', '{"highest": {}, "issued": "1"}']
)
def test_damaged_notes_of_what_was_seen_are_named(farm: Farm, clock: Clock, content: str) -> None:
    credentials = farm.of("a")
    (credentials.directory / "seen-farm.json").write_text(content)
    with pytest.raises(CredentialsError, match=r"seen-farm.json is damaged"):
        clock.guard(credentials)


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_said(farm: Farm, clock: Clock) -> None:
    credentials = farm.of("a")
    (credentials.directory / "counter.lock").mkdir()
    with pytest.raises(
        CredentialsError, match=r"cannot write .*counter.json \(Is a directory\): whoever signs"
    ):
        clock.guard(credentials).seal(OFFER, offer())


def test_whoever_only_looks_on_reads_and_writes_nothing(farm: Farm, a: Guard, clock: Clock) -> None:
    lead = clock.guard(farm.of("coordinator"))
    born, left = a.seal(PRESENCE, presence("a")), a.seal(PRESENCE, presence("a", online=False))
    lead.open(PRESENCE, left)
    lead.close()
    path = farm.directory / "coordinator" / "seen-farm.json"
    before = path.read_bytes()
    onlooker = clock.guard(farm.of("coordinator"), looks_on=True)
    assert refusal(onlooker, PRESENCE, born) == ("a", "replayed")
    onlooker.open(PRESENCE, a.seal(PRESENCE, presence("a")))
    onlooker.close()
    assert path.read_bytes() == before
    # The coordinator's last word may be old.
    last = lead.seal(FARM.coordinator, here(online=False))
    clock += 90 * 86_400
    assert onlooker.open(FARM.coordinator, last) == here(online=False)


# -- the link ---------------------------------------------------------------------------------------------


def test_a_signed_link_seals_judges_and_counts(farm: Farm, lead: Guard, a: Guard) -> None:
    hub = MemoryHub()
    gateway = SignedLink(hub.connect("gateway", FARM.coordinator_filters()), lead)
    device = SignedLink(hub.connect("a", FARM.client_filters("a")), a)
    wire = hub.connect("wire", ["hedgerow/#"])
    taps = drain(gateway) + drain(device) + drain(wire)
    assert not [event for event in taps if isinstance(event, Received)]
    device.publish(OFFER, offer(), qos=1)
    gateway.publish(FARM.manifest, manifest(), retain=True)
    (sealed, told) = [event for event in drain(wire) if isinstance(event, Received)]
    assert sealed.payload != offer()
    assert told.payload != manifest()
    assert drain(gateway) == [Received(OFFER, offer())]
    assert drain(device) == [Received(FARM.manifest, manifest())]
    wire.publish(OFFER, sealed.payload)
    wire.publish(OFFER, offer())
    wire.publish("hedgerow/1/farm/up/a/nonsense", b"x")
    refused = drain(gateway)
    assert [event.refusal.reason for event in refused if isinstance(event, Refused)] == [
        "replayed",
        "unsigned",
    ]
    assert isinstance(refused[-1], Received)
    gateway.close()
    assert "up a" in (farm.directory / "coordinator" / "seen-farm.json").read_text()


def test_refusals_are_bounded_however_many_names_there_are() -> None:
    refusals = Refusals()
    told = [
        refusals.note(MessageRefused(sender=f"c{i}", reason="stranger", advice="no")) for i in range(5000)
    ]
    assert sum(told) == 51
    assert refusals.total == 5000
    assert "4950 stranger (others)" in refusals.summary()
