"""One MQTT connection, from CONNECT to its end. The only file that knows paho.

paho resends its whole queue at a reconnect, ignores what the broker can take, and dies silently when a
callback raises. So a paho client lives for one connection here, holds only what is in flight, is driven by
one thread, and its callbacks do nothing but note what happened.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from hedgerow_transport.broker_url import BrokerUrl
from hedgerow_transport.errors import BrokerError, BrokerRefused, BrokerUnreachable, BrokerUrlError
from hedgerow_transport.link import Will

# Told to the broker in MQTT 5, so that nobody can fill this process with one packet (MQTT 5, 3.1.2.11.4).
MAX_INCOMING_BYTES = 2 << 20
# An old broker may wait for ever for the rest of a CONNECT that it does not understand.
MAX_ATTEMPT_S = 3.0
# paho reads one packet at a time, and to wait for each takes longer than to read it.
READ_BYTES_AT_ONCE = 32 << 10
_VERSIONS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}
_CONNACK = 0x20
_TLS_ALERT = 0x15
_ALERT = re.compile(r"_ALERT_([A-Z_]+)")
_ALERTS = {
    "CERTIFICATE_REQUIRED": "it has shown none, give --credentials",
    "CERTIFICATE_REVOKED": "this device was shut out; it can join again with a new token",
    "CERTIFICATE_EXPIRED": "let this device join again with a new token",
}
_DISCONNECT_PACKET = b"\xe0\x00"
# MQTT 5, 2.4
_UNSUPPORTED_PROTOCOL, _BAD_IDENTIFIER, _BAD_PASSWORD, _NOT_AUTHORIZED = 0x84, 0x85, 0x86, 0x87
_SHUTTING_DOWN, _TAKEN_OVER, _FIRST_FAILURE = 0x8B, 0x8E, 0x80


@dataclass(frozen=True, slots=True)
class Arrived:
    """A PUBLISH packet came in."""

    topic: str
    payload: bytes
    qos: int
    retained: bool

    @property
    def size(self) -> int:
        """Bytes of topic and payload."""
        return len(self.topic) + len(self.payload)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker has a QoS 1 message, or (`refusal`) says why it does not want it."""

    packet_id: int
    refusal: str


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker answered a SUBSCRIBE; `refusal` is empty when it granted all filters."""

    refusal: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is over."""

    reason: str
    taken_over: bool = False
    refused: bool = False


Happening = Arrived | Acknowledged | Subscribed | Lost


class _ProtocolRefused(BrokerError):
    """The broker gave no answer, or none that belongs to this version of MQTT."""


def open_connection(
    url: BrokerUrl,
    *,
    client_id: str,
    will: Will | None = None,
    keepalive_s: int = 30,
    timeout_s: float = 10.0,
    protocols: tuple[str, ...] | None = None,
) -> MqttConnection:
    """Connect, trying protocol versions in order: the given ones, else those of the URL.

    Raises
    ------
    BrokerUnreachable
        When nothing that speaks MQTT answers in time.
    BrokerRefused
        When a broker answers and says no.
    BrokerUrlError
        When the certificate file of the URL cannot be used.
    """
    give_up_at = time.monotonic() + timeout_s
    problem: BrokerError = BrokerUnreachable(f"no time was left to reach {url.place}")
    versions = protocols or url.protocols
    for place, protocol in enumerate(versions):
        left_s = give_up_at - time.monotonic()
        share = left_s if place == len(versions) - 1 else min(left_s / 2, MAX_ATTEMPT_S)
        if share <= 0:
            break
        connection = MqttConnection(
            url, client_id=client_id, will=will, keepalive_s=keepalive_s, protocol=protocol
        )
        try:
            connection.dial(timeout_s=share)
        except _ProtocolRefused as error:
            connection.abort()
            problem = error
        except BrokerError:
            connection.abort()
            raise
        else:
            return connection
    raise problem if isinstance(problem, BrokerUnreachable) else BrokerUnreachable(str(problem))


class MqttConnection:
    """One connection; `service` it from one thread and read `happened`.

    Attributes
    ----------
    protocol : str
        ``"5"`` or ``"3.1.1"``.
    max_packet_bytes : int or None
        Largest packet that the broker takes, where it said so.
    receive_maximum : int
        How many unacknowledged QoS 1 messages the broker takes.
    retains : bool
        Whether the broker keeps retained messages.
    happened : list
        What came since it was last emptied.
    """

    def __init__(
        self, url: BrokerUrl, *, client_id: str, will: Will | None, keepalive_s: int, protocol: str
    ) -> None:
        self.protocol = protocol
        self.max_packet_bytes: int | None = None
        self.receive_maximum = 65_535
        self.retains = True
        self.happened: list[Happening] = []
        self._url = url
        self._keepalive_s = keepalive_s
        self._connack: ReasonCode | None = None
        self._lost = False
        self._alert = ""
        self._client = self._make_client(client_id, will)

    def dial(self, *, timeout_s: float) -> None:
        """Connect and wait for the broker's answer; raises as `open_connection`, and `_ProtocolRefused`."""
        give_up_at = time.monotonic() + timeout_s
        self._client.connect_timeout = timeout_s
        options: dict[str, Any] = {}
        if self.protocol == "5":
            options["clean_start"] = True
            options["properties"] = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            options["properties"].MaximumPacketSize = MAX_INCOMING_BYTES
        try:
            self._client.connect(self._url.host, self._url.port, keepalive=self._keepalive_s, **options)
        except ssl.SSLCertVerificationError as error:
            raise BrokerUnreachable(
                f"the certificate of {self._url.place} is not trusted ({error.verify_message}): "
                f"{_advice(error.verify_message)}"
            ) from error
        except ssl.SSLError as error:
            raise BrokerUnreachable(
                f"{self._url.place} does not speak TLS ({error.reason or error}): "
                "use mqtt:// or the broker's TLS port"
            ) from error
        except (OSError, UnicodeError) as error:
            raise BrokerUnreachable(self._explain(error)) from error
        sock = self._socket()
        if sock is not None:
            # Many small packets go both ways; Nagle's algorithm would hold each back for a round trip.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._await_connack(give_up_at)
        self._judge_connack()

    def fileno(self) -> int:
        """Return the socket's descriptor, or -1 when the connection is over."""
        sock = self._socket()
        return -1 if sock is None else sock.fileno()

    @property
    def lost(self) -> bool:
        """Whether the connection is over."""
        return self._lost

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for the socket to take them."""
        return not self._lost and self._client.want_write()

    @property
    def has_pending(self) -> bool:
        """Whether bytes were taken from the socket and decrypted, but not yet read."""
        sock = self._socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def publish(self, topic: str, payload: bytes, *, retain: bool, qos: int) -> int:
        """Send, or begin to send, a message; return its packet identifier."""
        return self._client.publish(topic, payload, qos=qos, retain=retain).mid

    def subscribe(self, filters: Iterable[str]) -> None:
        """Ask for filters at QoS 1."""
        self._client.subscribe([(wish, 1) for wish in filters])

    def unsubscribe(self, filters: Iterable[str]) -> None:
        """Give filters up."""
        self._client.unsubscribe(list(filters))

    def service(self, *, readable: bool, writable: bool) -> None:
        """Read and write what the socket allows, and keep the connection alive; see `happened`."""
        if readable:
            num_bytes, before = 0, -1
            while num_bytes < READ_BYTES_AT_ONCE and before < len(self.happened) and not self._lost:
                before = len(self.happened)
                self._client.loop_read()
                num_bytes += sum(event.size for event in self.happened[before:] if isinstance(event, Arrived))
        while self.has_pending and not self._lost:
            self._client.loop_read()
        if writable and self.wants_write:
            self._client.loop_write()
        self._client.loop_misc()
        if self._client.socket() is None:
            self._note_lost(Lost("the connection was lost"))

    def farewell(self, *, timeout_s: float = 1.0) -> None:
        """Say DISCONNECT, so that the will is not published, and close.

        paho closes the socket at once. With bytes unread the kernel then resets the connection, and the
        broker may see the reset before the farewell. So: our half is shut first, and the rest is read until
        the broker closes.
        """
        sock = self._socket()
        if sock is not None and not self._lost and not self._client.want_write():
            try:
                sock.settimeout(timeout_s)
                sock.sendall(_DISCONNECT_PACKET)
                if not isinstance(sock, ssl.SSLSocket):
                    sock.shutdown(socket.SHUT_WR)
                give_up_at = time.monotonic() + timeout_s
                while time.monotonic() < give_up_at and sock.recv(65_536):
                    pass
            except OSError:
                pass  # the broker was faster, or is gone
        self.abort()

    def abort(self) -> None:
        """Close without a word: the broker publishes the will."""
        self._lost = True
        sock = self._socket()
        if sock is not None:
            sock.close()

    def _make_client(self, client_id: str, will: Will | None) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if self.protocol == "5" else True,
            protocol=_VERSIONS[self.protocol],
            reconnect_on_failure=False,
        )
        if self._url.username is not None:
            client.username_pw_set(self._url.username, self._url.password)
        if self._url.tls:
            client.tls_set_context(_tls_context(self._url))
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        if self._url.tls:
            client.on_log = self._on_log
        return client

    def _socket(self) -> socket.socket | None:
        sock = self._client.socket()
        return sock if isinstance(sock, socket.socket) else None

    def _await_connack(self, give_up_at: float) -> None:
        peeked = False
        while self._connack is None:
            sock = self._socket()
            left_s = give_up_at - time.monotonic()
            if sock is None or self._lost:
                raise self._no_answer()
            if left_s <= 0:
                raise _ProtocolRefused(
                    f"{self._url.place} takes connections but does not answer like an MQTT broker: "
                    "is it the right port?"
                )
            poller = select.poll()
            poller.register(sock, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
            ready = poller.poll(1000 * min(left_s, 1.0))
            readable = any(flags & ~select.POLLOUT for _, flags in ready)
            if readable and not peeked and not isinstance(sock, ssl.SSLSocket):
                self._check_first_byte(sock)
                peeked = True
            self.service(readable=readable or self.has_pending, writable=bool(ready))

    def _no_answer(self) -> BrokerError:
        place, tls = self._url.place, self._url.tls
        if self._alert:
            advice = _ALERTS.get(
                self._alert, "was it made by this broker's authority, and does it still hold?"
            )
            words = self._alert.replace("_", " ").lower()
            return BrokerRefused(f"{place} does not accept this client's certificate ({words}): {advice}")
        if tls and self._url.certfile is None:
            return _ProtocolRefused(
                f"{place} closed the connection without an answer: it may want a certificate (--credentials)"
            )
        if tls:
            return _ProtocolRefused(
                f"{place} closed the connection without an answer: this client's certificate may be revoked, "
                "expired, or of another authority"
            )
        return _ProtocolRefused(
            f"{place} closed the connection without an answer: is it an MQTT broker, or does it want mqtts://?"
        )

    def _check_first_byte(self, sock: socket.socket) -> None:
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return
        if first and first[0] == _TLS_ALERT:
            raise BrokerUnreachable(f"{self._url.place} speaks TLS: use mqtts://")
        if first and first[0] != _CONNACK:
            raise BrokerUnreachable(
                f"{self._url.place} answers, but not as an MQTT broker: is it the right port?"
            )

    def _judge_connack(self) -> None:
        assert self._connack is not None
        code = self._connack.value
        if code == 0:
            return
        who = "a client without a user name"
        if self._url.username is not None:
            who = f"user {self._url.username!r}"
        if code == _UNSUPPORTED_PROTOCOL:
            raise _ProtocolRefused(f"the broker at {self._url.place} does not speak MQTT {self.protocol}")
        if code in (_BAD_PASSWORD, _NOT_AUTHORIZED):
            raise BrokerRefused(
                f"the broker at {self._url.place} does not let {who} in: "
                "check user and password in the broker URL"
            )
        if code == _BAD_IDENTIFIER:
            raise BrokerRefused(f"the broker at {self._url.place} does not accept this client's name")
        raise BrokerRefused(f"the broker at {self._url.place} refused the connection: {self._connack}")

    def _explain(self, error: Exception) -> str:
        place = self._url.place
        if isinstance(error, (socket.gaierror, UnicodeError)):
            return f"the host {self._url.host} is not known: check its name and the network"
        if isinstance(error, ConnectionRefusedError):
            return f"nothing listens at {place} (connection refused): is the broker running?"
        if isinstance(error, TimeoutError):
            return f"no answer from {place}: check host, port and firewall"
        if self._url.tls and isinstance(error, ConnectionError):
            return f"{place} ended the TLS handshake: use mqtt:// or the broker's TLS port"
        detail = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return f"cannot connect to {place}: {detail}"

    def _note_lost(self, lost: Lost) -> None:
        if not self._lost:
            self._lost = True
            self.happened.append(lost)

    def _on_log(self, _client: Any, _data: Any, _level: int, text: str) -> None:
        # With TLS 1.3 a broker looks at our certificate after the handshake; what it says of it comes as an
        # alert at the first read, which paho tells nobody but its log.
        found = _ALERT.search(text)
        if found is not None:
            self._alert = found[1]

    def _on_connect(
        self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._connack = reason
        self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        self.retains = getattr(properties, "RetainAvailable", 1) != 0

    def _on_disconnect(
        self, _client: Any, _data: Any, flags: Any, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if not flags.is_disconnect_packet_from_server:
            self._note_lost(Lost(f"the connection was lost ({reason})"))
        elif reason.value == _TAKEN_OVER:
            self._note_lost(Lost("another client with the same name has connected", taken_over=True))
        elif reason.value == _SHUTTING_DOWN:
            self._note_lost(Lost("the broker is shutting down"))
        else:
            self._note_lost(Lost(f"the broker ended the connection: {reason}"))

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # no topic of ours
        self.happened.append(Arrived(topic, bytes(message.payload), message.qos, message.retain))

    def _on_publish(
        self, _client: Any, _data: Any, packet_id: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        refusal = str(reason) if reason.value >= _FIRST_FAILURE else ""
        self.happened.append(Acknowledged(packet_id, refusal))

    def _on_subscribe(
        self,
        _client: Any,
        _data: Any,
        _packet_id: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        failures = [str(reason) for reason in reasons if reason.value >= _FIRST_FAILURE]
        self.happened.append(Subscribed(failures[0] if failures else ""))


def _advice(verdict: str) -> str:
    if "expired" in verdict:
        return "renew it there (hedgerow keys renew), or check the clock here"
    if "not yet valid" in verdict:
        return "check the clock here"
    return "name the right host, or give the authority's certificate with --credentials or --ca"


def _tls_context(url: BrokerUrl) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=url.cafile)
    except (OSError, ssl.SSLError) as error:
        raise BrokerUrlError(f"the cafile {url.cafile} cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if url.certfile is not None:
        try:
            # Without a password of ours OpenSSL would ask for that of an encrypted key on the terminal.
            context.load_cert_chain(url.certfile, url.keyfile, password="")
        except (OSError, ssl.SSLError) as error:
            raise BrokerUrlError(
                f"the certificate {url.certfile} and its key {url.keyfile or ''} cannot be used: {error}"
            ) from error
    return context
