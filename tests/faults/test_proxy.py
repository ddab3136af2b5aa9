"""The proxy is as bad a link as it was told to be, and no worse."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from benchmarks.faults import LinkProfile, Proxy

DATA = bytes(range(256)) * 400


@pytest.fixture
def echo() -> Iterator[int]:
    """Return the port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(peer,), daemon=True).start()

        def answer(peer: socket.socket) -> None:
            with peer, contextlib.suppress(OSError):
                while piece := peer.recv(65_536):
                    peer.sendall(piece)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def there_and_back(proxy: Proxy, data: bytes) -> tuple[bytes, float]:
    """Send data to the echo and read it back; return what came until the end or an error, and seconds."""
    started, came = time.monotonic(), b""
    # A reset may come before the connection is of any use.
    with (
        contextlib.suppress(ConnectionResetError),
        socket.create_connection(("127.0.0.1", proxy.port), 5.0) as sock,
    ):

        def send() -> None:
            with contextlib.suppress(OSError):
                sock.sendall(data)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            while len(came) < len(data) and (piece := sock.recv(65_536)):
                came += piece
        finally:
            sender.join(5.0)
    return came, time.monotonic() - started


def test_without_faults_everything_arrives_and_is_counted(echo: int) -> None:
    with Proxy(echo, profile=LinkProfile()) as proxy:
        came, _ = there_and_back(proxy, DATA)
        assert hashlib.sha256(came).digest() == hashlib.sha256(DATA).digest()
        time.sleep(0.1)  # it counts after it has sent
        assert (proxy.up_bytes, proxy.down_bytes) == (len(DATA), len(DATA))
        assert (proxy.num_connections, proxy.num_resets) == (1, 0)


def test_latency_delays_both_ways(echo: int) -> None:
    with Proxy(echo, profile=LinkProfile(latency_s=0.15)) as proxy:
        came, seconds = there_and_back(proxy, b"ping")
    assert came == b"ping"
    assert 0.3 <= seconds < 3.0


def test_jitter_delays_and_keeps_the_order(echo: int) -> None:
    with Proxy(echo, profile=LinkProfile(jitter_s=0.02), seed=3) as proxy:
        assert there_and_back(proxy, DATA)[0] == DATA


def test_the_slower_way_sets_the_time(echo: int) -> None:
    with Proxy(echo, profile=LinkProfile(up_bytes_per_s=100_000)) as proxy:
        came, seconds = there_and_back(proxy, DATA[:50_000])
    assert came == DATA[:50_000]
    assert 0.45 <= seconds < 5.0


def test_a_connection_is_reset_after_so_many_bytes_and_the_next_one_lives(echo: int) -> None:
    with Proxy(echo, profile=LinkProfile(reset_every_bytes=60_000)) as proxy:
        came, _ = there_and_back(proxy, DATA)
        assert len(came) < 60_000
        assert DATA.startswith(came)
        assert proxy.num_resets == 1
        assert there_and_back(proxy, b"again")[0] == b"again"
        assert proxy.num_connections == 2


def test_in_a_stall_nothing_moves(echo: int) -> None:
    with Proxy(echo, profile=LinkProfile(stall_every_s=0.01, stall_s=0.5), seed=1) as proxy:
        time.sleep(0.2)
        came, seconds = there_and_back(proxy, b"ping")
    assert came == b"ping"
    assert 0.1 < seconds < 5.0


def test_all_connections_can_be_reset_at_once(echo: int) -> None:
    with (
        Proxy(echo, profile=LinkProfile()) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), 5.0) as sock,
    ):
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with Proxy(port, profile=LinkProfile()) as proxy:
        assert there_and_back(proxy, b"x")[0] == b""


def test_a_profile_has_no_negative_numbers() -> None:
    with pytest.raises(ValueError, match="latency_s must be 0 or more, not -1"):
        LinkProfile(latency_s=-1)
