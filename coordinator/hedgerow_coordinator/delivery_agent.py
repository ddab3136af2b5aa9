"""The process that delivers a model: one link, one `Deliverer`; the only place where they meet a clock."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from hedgerow_coordinator.delivery import Deliverer, DeliveryRow
from hedgerow_transport import (
    DEFAULT_CHUNK_BYTES,
    BlobRef,
    BrokerError,
    Connected,
    Credentials,
    Delivery,
    Devices,
    Disconnected,
    Guard,
    Link,
    LinkEvent,
    LinkOverflow,
    Manifest,
    MessageError,
    MqttLink,
    Received,
    Refused,
    SignedLink,
    SignedWill,
    Topics,
    Will,
    ask_broker,
    blob_digest,
    decode_message,
    fitting_chunk_bytes,
)

LONGEST_SLEEP_S = 0.5
# How long what is retained may take to arrive, births and a run's manifest among it.
LISTEN_S = 0.5
OVERFLOW_PAUSE_S = 0.05
SEND_AHEAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """What is delivered, and to whom.

    Attributes
    ----------
    broker : str
        ``mqtt://[user:password@]host[:port]``.
    namespace : str
    purpose : str
        ``use`` or ``calibrate``.
    devices : str
        Patterns of names, with commas between them; empty is everybody.
    max_drop : float
        Points that the model may be worse than the one in use.
    serial : int
        Tells this call from an earlier one with the same file, so that it is tried anew.
    wait_s : float
    max_kbit_s : float
        Rate of all chunks together; 0 for no limit.
    credentials : Credentials or None
    """

    broker: str
    namespace: str = "default"
    purpose: str = "use"
    devices: str = ""
    max_drop: float = 0.5
    serial: int = 0
    wait_s: float = 600.0
    max_kbit_s: float = 0.0
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryOutcome:
    """How a delivery has ended.

    Attributes
    ----------
    rows : tuple of DeliveryRow
    bytes_sent, bytes_received : int
        Of PUBLISH packets.
    seconds : float
    displaced : bool
        Whether somebody else has offered another model meanwhile.
    """

    rows: tuple[DeliveryRow, ...]
    bytes_sent: int
    bytes_received: int
    seconds: float
    displaced: bool


def deliver(
    model: bytes,
    settings: DeliverySettings,
    *,
    stop: threading.Event,
    show: Callable[[tuple[DeliveryRow, ...]], None],
    say: Callable[[str], None],
) -> DeliveryOutcome:
    """Offer a model to devices until all that are there have answered, time is up, or `stop` is set.

    Parameters
    ----------
    model
        The ONNX file.
    settings
        What to do.
    stop
        Ends it early.
    show
        Is given what is known of the devices, each time that it has changed.
    say
        Prints one sentence for the person at the gateway.

    Raises
    ------
    hedgerow_transport.TransportError
        When the broker cannot be reached or refuses, or a name cannot be used.
    """
    began = time.monotonic()
    topics = Topics(settings.namespace)
    credentials = settings.credentials
    guard = None if credentials is None else Guard(credentials, topics=topics, looks_on=True)
    known = _known(credentials)
    # What the link is made with comes before what is sent over it: the will withdraws the offer.
    draft = _offer(model, settings, chunk_bytes=_fitting(settings.broker, DEFAULT_CHUNK_BYTES))
    withdrawn = Deliverer(model, draft, topics=topics, wait_s=0.0).closing()
    mqtt = MqttLink(
        settings.broker,
        client_id=f"hedgerow-{settings.namespace}--delivery-{secrets.token_hex(4)}",
        filters=topics.deliverer_filters(),
        will=(
            SignedWill(guard, topic=withdrawn.topic, make=lambda: withdrawn.payload)
            if guard
            else lambda: Will(topic=withdrawn.topic, payload=withdrawn.payload)
        ),
    )
    mqtt.connect()
    link: Link = SignedLink(mqtt, guard) if guard else mqtt
    try:
        early, chunk_bytes = _listen(link, topics, draft.chunk_bytes)
        deliverer = Deliverer(
            model,
            _offer(model, settings, chunk_bytes=chunk_bytes, at=draft.at),
            topics=topics,
            wait_s=settings.wait_s,
            known=known,
            max_bytes_per_s=settings.max_kbit_s * 125,
            room=lambda: SEND_AHEAD_BYTES - mqtt.queued_bytes if mqtt.connected else 0,
        )
        _lead(deliverer, link, early=early, stop=stop, show=show, say=say)
        last = deliverer.closing()
        if not deliverer.displaced:
            link.publish(last.topic, last.payload, retain=True, qos=1)
            link.flush(5.0)
    except BaseException:
        link.close(graceful=False)
        raise
    link.close()
    return DeliveryOutcome(
        rows=deliverer.rows,
        bytes_sent=link.traffic.sent_bytes,
        bytes_received=link.traffic.received_bytes,
        seconds=time.monotonic() - began,
        displaced=deliverer.displaced,
    )


def _known(credentials: Credentials | None) -> list[str]:
    if credentials is None:
        return []
    found = Devices.read(credentials.register).by_name
    return [name for name, device in found.items() if not device.revoked]


def _offer(model: bytes, settings: DeliverySettings, *, chunk_bytes: int, at: int | None = None) -> Delivery:
    return Delivery(
        model=BlobRef(kind="export", digest=blob_digest(model), size=len(model)),
        purpose=settings.purpose,
        serial=settings.serial,
        max_drop=settings.max_drop,
        devices=settings.devices,
        chunk_bytes=chunk_bytes,
        at=int(time.time()) if at is None else at,
    )


def _fitting(broker: str, wanted: int) -> int:
    limit = ask_broker(broker).max_packet_bytes
    fitting = fitting_chunk_bytes(wanted, max_packet_bytes=limit)
    if fitting == 0:
        raise BrokerError(f"the broker takes packets of at most {limit} bytes, less than one chunk")
    return fitting


def _listen(link: Link, topics: Topics, chunk_bytes: int) -> tuple[list[LinkEvent], int]:
    """Return what is retained, and chunks that are no larger than those of the run that is led here.

    An older client complains of larger ones, though they are none of its business.
    """
    early: list[LinkEvent] = []
    end = time.monotonic() + LISTEN_S
    while (rest := end - time.monotonic()) > 0:
        try:
            event = link.events.get(timeout=rest)
        except queue.Empty:
            break
        early.append(event)
        if isinstance(event, Received) and event.topic == topics.manifest and event.payload:
            try:
                chunk_bytes = min(chunk_bytes, decode_message(event.payload, Manifest).chunk_bytes)
            except MessageError:
                continue
    return early, chunk_bytes


def _lead(
    deliverer: Deliverer,
    link: Link,
    *,
    early: list[LinkEvent],
    stop: threading.Event,
    show: Callable[[tuple[DeliveryRow, ...]], None],
    say: Callable[[str], None],
) -> None:
    for event in early:
        _take(event, deliverer, say)
    deliverer.start(time.monotonic())
    shown: tuple[DeliveryRow, ...] | None = None
    while not stop.is_set():
        now = time.monotonic()
        deliverer.tick(now)
        _flush(deliverer, link, stop)
        if deliverer.rows != shown:
            shown = deliverer.rows
            show(shown)
        if deliverer.done(now):
            return
        wake = now + LONGEST_SLEEP_S
        if deliverer.wake_at is not None:
            wake = min(wake, deliverer.wake_at)
        try:
            _take(link.events.get(timeout=max(0.0, wake - now)), deliverer, say)
        except queue.Empty:
            continue


def _take(event: LinkEvent, deliverer: Deliverer, say: Callable[[str], None]) -> None:
    now = time.monotonic()
    if isinstance(event, Connected):
        deliverer.connected(now)
    elif isinstance(event, Disconnected):
        say(f"the link to the broker is down: {event.reason}; it comes back by itself")
        if event.fatal:
            raise BrokerError(f"the broker has put this delivery off: {event.reason}")
    elif isinstance(event, Refused):
        deliverer.refuse(event.refusal)
    else:
        deliverer.handle(event.topic, event.payload, now=now, retained=event.retained)


def _flush(deliverer: Deliverer, link: Link, stop: threading.Event) -> None:
    for publication in deliverer.take_publications():
        while not stop.is_set():
            try:
                link.publish(
                    publication.topic, publication.payload, retain=publication.retain, qos=publication.qos
                )
                break
            except LinkOverflow:
                stop.wait(OVERFLOW_PAUSE_S)
