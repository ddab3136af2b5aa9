"""Who may say what: every cause of a refusal, and what is taken although it looks odd."""

from __future__ import annotations

import queue
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hedgerow_transport import (
    Accept,
    BlobRef,
    CoordinatorState,
    Credentials,
    CredentialsError,
    Decline,
    Device,
    Devices,
    Guard,
    Manifest,
    MemoryHub,
    MessageError,
    MessageRefused,
    Offer,
    Presence,
    Received,
    Refusals,
    Refused,
    SignedLink,
    SignedWill,
    SigningKey,
    TopicError,
    Topics,
    encode_cohort,
    write_credentials,
)

FARM = Topics("farm")
MADE = 1_700_000_000
NOW = MADE + 1_000_000
EXPIRES = MADE + 2 * 365 * 86_400
D = bytes(range(16))


@dataclass
class Clock:
    """Unix time and seconds since a start, which a test can set apart."""

    unix: float = NOW
    seconds: float = 0.0

    def guard(self, credentials: Credentials, *, topics: Topics = FARM, looks_on: bool = False) -> Guard:
        return Guard(
            credentials,
            topics=topics,
            wall_clock=lambda: self.unix,
            clock=lambda: self.seconds,
            looks_on=looks_on,
        )

    def __iadd__(self, seconds: float) -> Clock:
        self.unix += seconds
        self.seconds += seconds
        return self


class Farm:
    """A coordinator, and devices that it knows by name."""

    def __init__(self, directory: Path, *names: str) -> None:
        self.directory = directory
        self._key = SigningKey.generate()
        self._write("coordinator", self._key)
        self.register = directory / "coordinator" / "devices.json"
        self.known: dict[str, Device] = {}
        for name in names:
            self.add(name)
        self.save()

    def add(self, name: str, *, folder: str = "") -> Credentials:
        key = SigningKey.generate()
        self._write(folder or name, key, name=name)
        self.known[name] = Device(signing_key=key.public, serial=1, expires=EXPIRES)
        self.save()
        return self.of(folder or name)

    def revoke(self, name: str) -> None:
        self.known[name] = replace(self.known[name], revoked=NOW)
        self.save()

    def save(self) -> None:
        Devices(by_name=self.known).write(self.register)

    def of(self, name: str) -> Credentials:
        return Credentials.load(self.directory / name)

    def _write(self, folder: str, key: SigningKey, *, name: str = "") -> None:
        write_credentials(
            self.directory / folder,
            role="device" if name else "coordinator",
            name=name or "coordinator.hedgerow",
            authority=b"ca",
            certificate=b"cert",
            key=b"key",
            signing_key=key,
            coordinator_key=self._key.public,
            made=MADE,
            expires=EXPIRES,
        )


def manifest(*, state: str = "round", round_number: int = 1, cohort: int = 0, reason: str = "") -> bytes:
    message = Manifest(
        run="trial-1",
        state=state,
        round=round_number,
        attempt=1,
        version=round_number - 1,
        layout=D,
        mask=D,
        model=D,
        plan=BlobRef(kind="plan", digest=D, size=10),
        steps=(),
        base_version=-1,
        cohort=bytes(4 * cohort),
        deadline_s=10.0,
        reason=reason,
    )
    return message.encode()


def offer(*, round_number: int = 1) -> bytes:
    update = BlobRef(kind="update", digest=D, size=100)
    return Offer(run="trial-1", round=round_number, update=update, num_samples=3).encode()


def decline() -> bytes:
    return Decline(run="trial-1", round=1, reason="too hot").encode()


def presence(client: str, *, online: bool = True, session: int = 1) -> bytes:
    return Presence(client=client, session=session, online=online).encode()


def here(*, online: bool = True) -> bytes:
    return CoordinatorState(run="trial-1", session=1, online=online).encode()


def accept(*, round_number: int = 1) -> bytes:
    return Accept(run="trial-1", round=round_number, digest=D).encode()


OFFER, PRESENCE, DOWN = FARM.up("a", "offer"), FARM.presence("a"), FARM.down("a")


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path, "a", "b")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lead(farm: Farm, clock: Clock) -> Guard:
    return clock.guard(farm.of("coordinator"))


@pytest.fixture
def a(farm: Farm, clock: Clock) -> Guard:
    return clock.guard(farm.of("a"))


def refusal(guard: Guard, topic: str, payload: bytes) -> tuple[str, str]:
    """Return sender and reason of a refusal, which must come."""
    with pytest.raises(MessageRefused) as caught:
        guard.open(topic, payload)
    assert "\n" not in str(caught.value)
    return caught.value.sender, caught.value.reason


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


def drain(link: object) -> list[object]:
    found = []
    while True:
        try:
            found.append(link.events.get_nowait())  # type: ignore[attr-defined]
        except queue.Empty:
            return found


def test_refusals_are_bounded_however_many_names_there_are() -> None:
    refusals = Refusals()
    told = [
        refusals.note(MessageRefused(sender=f"c{i}", reason="stranger", advice="no")) for i in range(5000)
    ]
    assert sum(told) == 51
    assert refusals.total == 5000
    assert "4950 stranger (others)" in refusals.summary()
