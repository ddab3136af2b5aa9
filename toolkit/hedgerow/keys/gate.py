"""The gateway's end of `hedgerow keys join`: a small TLS endpoint that trades tokens for certificates.

``GET /authority`` returns the authority's certificate; it is public, and the device compares it with its
token. ``POST /join`` takes a `JoinRequest` and returns what `answer_join` makes, both as JSON. Nobody can do
anything here without a token.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hedgerow.keys.authority import Authority
from hedgerow.keys.certificates import read_request, to_pem
from hedgerow.keys.token import TokenRefused
from hedgerow_transport import CredentialsError, verifies

DEFAULT_PORT = 8884
MAX_BODY_BYTES = 1 << 14
# Whoever connects has this long for everything; so many may do it at a time.
CONNECTION_S = 15.0
MAX_CONNECTIONS = 32
# A flood of wrong requests is not printed line by line.
MAX_NOTICES = 100
_PROOF_CONTEXT = b"hedgerow join 1\0"


def proof_bytes(identifier: str, request: bytes) -> bytes:
    """Return what a device signs with its key for messages, to show that it has it."""
    return _PROOF_CONTEXT + identifier.encode() + b"\0" + request


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """What a device sends: its token, a certificate request (PEM), its public key, and a proof.

    The proof is a signature with that key over `proof_bytes`. Secret, key and proof are in hex digits.
    """

    token: str
    secret: str
    request: str
    signing_key: str
    proof: str

    @classmethod
    def parse(cls, body: bytes) -> JoinRequest:
        """Read a request; ValueError when it is none."""
        content: Any = json.loads(body)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(key), str) for key in cls.__slots__
        ):
            raise ValueError("the request is not whole")
        return cls(**{key: content[key] for key in cls.__slots__})


def answer_join(
    authority: Authority, body: bytes, *, now: float
) -> tuple[HTTPStatus, dict[str, object], str]:
    """Answer one request; return status, answer and, for the person at the gateway, who it was."""
    try:
        message = JoinRequest.parse(body)
        request = read_request(message.request.encode())
        signing_key, proof = bytes.fromhex(message.signing_key), bytes.fromhex(message.proof)
        secret = bytes.fromhex(message.secret)
        proven = verifies(
            signing_key, signature=proof, data=proof_bytes(message.token, message.request.encode())
        )
    except (ValueError, RecursionError):
        # CredentialsError is one, too: the public key is none.
        return HTTPStatus.BAD_REQUEST, {"error": "the request is not one of Hedgerow"}, ""
    if not proven:
        return HTTPStatus.BAD_REQUEST, {"error": "the device has not shown that the key is its own"}, ""
    try:
        issued = authority.enrol(message.token, secret, request=request, signing_key=signing_key, now=now)
    except TokenRefused as error:
        return HTTPStatus.FORBIDDEN, {"error": str(error)}, ""
    answer = {
        "name": issued.name,
        "certificate": issued.certificate.decode(),
        "authority": issued.authority.decode(),
        "coordinator_key": issued.coordinator_key.hex(),
        "expires": issued.expires,
        "time": int(now),
    }
    return HTTPStatus.OK, answer, issued.name


class Gate(ThreadingHTTPServer):
    """Serve until `close`; a thread for each connection, bounded in number and time.

    Parameters
    ----------
    authority : Authority
    host : str
        Address to listen on; empty for all.
    port : int
        0 picks a free one.
    say : callable
        Prints one sentence for the person at the gateway.

    Raises
    ------
    OSError
        When the port cannot be used.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, authority: Authority, *, host: str, port: int, say: Callable[[str], None]) -> None:
        self.authority = authority
        self._say = say
        self._notices = 0
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_cert_chain(*authority.broker_files)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, name="gate", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def close(self) -> None:
        """Stop."""
        self.shutdown()
        self.server_close()
        self._thread.join(5.0)

    def notice(self, sentence: str) -> None:
        """Tell the person at the gateway, unless it was told too much already."""
        self._notices += 1
        if self._notices <= MAX_NOTICES:
            self._say(sentence)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to a thread; with too many open it is closed at once."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection, which is cut off when its time is over."""
        request.settimeout(CONNECTION_S)
        # The handshake waits for the other side: here, not in the thread that accepts.
        connection = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        cut = threading.Timer(CONNECTION_S, _cut, args=(connection,))
        cut.daemon = True
        cut.start()
        try:
            connection.do_handshake()
            self.finish_request(connection, client_address)
        except (OSError, ValueError):
            pass  # no TLS, or gone: nobody to tell
        finally:
            cut.cancel()
            connection.close()
            self._slots.release()


class _Handler(BaseHTTPRequestHandler):
    server: Gate  # pyright: ignore[reportIncompatibleVariableOverride]  # made by a Gate only
    timeout = CONNECTION_S
    server_version, sys_version = "hedgerow", ""

    def do_GET(self) -> None:
        """Give the authority's certificate."""
        if self.path != "/authority":
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})
            return
        self._answer(HTTPStatus.OK, {"authority": to_pem(self.server.authority.certificate).decode()})

    def do_POST(self) -> None:
        """Trade a token for a certificate."""
        length = self.headers.get("Content-Length", "")
        fits = length.isdecimal() and len(length) < 9 and int(length) <= MAX_BODY_BYTES
        # Read in any case: an answer before bytes that were not read is lost with the reset that follows.
        body = self.rfile.read(int(length)) if fits else b""
        if self.path != "/join" or not fits:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": "the request is not one of Hedgerow"})
            return
        try:
            status, answer, name = answer_join(self.server.authority, body, now=time.time())
        except (OSError, CredentialsError) as error:
            # A full disk, a damaged register: the gateway's trouble, and its person's to read.
            self.server.notice(f"a device could not join: {error}")
            self._answer(
                HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "the gateway has trouble; see what it says"}
            )
            return
        where = self.client_address[0]
        self.server.notice(
            f"'{name}' has joined from {where}" if name else f"refused {where}: {answer['error']}"
        )
        self._answer(status, answer)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what matters is said by `notice`."""

    def _answer(self, status: HTTPStatus, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _cut(connection: socket.socket) -> None:
    # Of the socket itself: that of TLS would pull its buffers from under the thread that reads.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
