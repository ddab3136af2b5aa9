"""A TCP proxy that makes a good link a bad one: delay, jitter, little bandwidth, stalls, resets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

# What the link holds that the far end has not got: small, so that the sender notices the rate.
MAX_HELD_BYTES = 32 << 10
_PIECE_BYTES = 8192
# A piece takes at most this long at the link's rate, so that a slow link is not a burst now and then.
_LONGEST_PIECE_S = 0.25
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProfile:
    """What a link is like. Zero switches a fault off.

    Parameters
    ----------
    latency_s, jitter_s : float
        Every byte comes later by the first, and by a random part of the second; the order stays.
    down_bytes_per_s, up_bytes_per_s : float
        Rates from and to the broker, of each connection by itself.
    reset_every_bytes : int
        A connection is reset when both ways together have carried so many bytes.
    reset_share : float
        Chance that a piece of at most 8 KiB resets its connection; below 1.
    stall_every_s, stall_s : float
        Mean time between stalls, and how long nothing moves in one: what packet loss looks like above TCP.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    down_bytes_per_s: float = 0.0
    up_bytes_per_s: float = 0.0
    reset_every_bytes: int = 0
    reset_share: float = 0.0
    stall_every_s: float = 0.0
    stall_s: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")


class Proxy:
    """Listen on loopback and pass connections on to a server there; a thread of its own does the work.

    Parameters
    ----------
    port : int
        Of the server.
    profile : LinkProfile
    seed : int
        Of jitter and stalls.

    Attributes
    ----------
    port : int
        Where the proxy listens.
    down_bytes, up_bytes : int
        What the link has carried to clients and to the server.
    num_connections, num_resets : int
    """

    def __init__(self, port: int, *, profile: LinkProfile, seed: int = 0) -> None:
        self.profile = profile
        self.down_bytes = self.up_bytes = 0
        self.num_connections = self.num_resets = 0
        self._target = port
        self._random = random.Random(seed)
        self._stalled_until = 0.0
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        # Inherited by what it accepts: a large buffer in the kernel would hide the rate from the sender.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_HELD_BYTES)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_HELD_BYTES)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The broker's URL by way of the proxy."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def carried_bytes(self) -> int:
        """What the link has carried in both directions."""
        return self.down_bytes + self.up_bytes

    def reset_all(self) -> None:
        """Reset every connection now."""
        self._loop.call_soon_threadsafe(self._reset_open)

    def close(self) -> None:
        """Reset every connection and stop; twice does no harm."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reset_open(self) -> None:
        for each in tuple(self._open):
            each.reset()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._spawn(self._accept())
        if self.profile.stall_every_s:
            self._spawn(self._stall())
        self._loop.run_forever()
        self._reset_open()
        self._loop.run_until_complete(_end(*self._tasks))
        self._listener.close()
        self._loop.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            near, _ = await self._loop.sock_accept(self._listener)
            self._spawn(self._connect(near))

    async def _connect(self, near: socket.socket) -> None:
        far = socket.socket()
        far.setblocking(False)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_HELD_BYTES)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_HELD_BYTES)
        connection = _Connection(near, far)
        self._open.add(connection)
        self.num_connections += 1
        try:
            await self._loop.sock_connect(far, ("127.0.0.1", self._target))
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ways = [
                self._loop.create_task(self._carry(connection, far, near, down=True)),
                self._loop.create_task(self._carry(connection, near, far, down=False)),
                self._loop.create_task(connection.broken.wait()),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _end(*ways)
        except OSError:
            connection.reset()  # the server is not there
        finally:
            self._open.discard(connection)
            connection.close()

    async def _carry(
        self, connection: _Connection, source: socket.socket, sink: socket.socket, *, down: bool
    ) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        room = asyncio.Semaphore(max(1, MAX_HELD_BYTES // _PIECE_BYTES))
        reader = self._loop.create_task(self._take(source, held, room, down=down))
        try:
            while True:
                due, piece = await held.get()
                await self._sleep_until(due)
                if not piece:
                    return  # an orderly end, after all that came before it
                await self._loop.sock_sendall(sink, piece)
                room.release()
                self._count(connection, len(piece), down=down)
                if connection.broken.is_set():
                    return
        except OSError:
            return
        finally:
            await _end(reader)

    async def _take(
        self,
        source: socket.socket,
        held: asyncio.Queue[tuple[float, bytes]],
        room: asyncio.Semaphore,
        *,
        down: bool,
    ) -> None:
        profile = self.profile
        rate = profile.down_bytes_per_s if down else profile.up_bytes_per_s
        size = min(_PIECE_BYTES, max(64, int(rate * _LONGEST_PIECE_S))) if rate else _PIECE_BYTES
        free_at = due = 0.0
        while True:
            await room.acquire()
            try:
                piece = await self._loop.sock_recv(source, size)
            except OSError:
                piece = b""
            now = time.monotonic()
            if rate:
                free_at = max(now, free_at) + len(piece) / rate
                await self._sleep_until(free_at)
                now = free_at
            delay = profile.latency_s + profile.jitter_s * self._random.random()
            due = max(due, now + delay)
            held.put_nowait((due, piece))
            if not piece:
                return

    def _count(self, connection: _Connection, num_bytes: int, *, down: bool) -> None:
        if down:
            self.down_bytes += num_bytes
        else:
            self.up_bytes += num_bytes
        connection.carried += num_bytes
        limit = self.profile.reset_every_bytes
        by_chance = self._random.random() < self.profile.reset_share
        due = by_chance or (limit and connection.carried >= limit)
        if due and not connection.broken.is_set():  # the other way may have broken it meanwhile
            self.num_resets += 1
            connection.reset()

    async def _sleep_until(self, at: float) -> None:
        while (rest := max(at, self._stalled_until) - time.monotonic()) > 0:
            await asyncio.sleep(rest)

    async def _stall(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self.profile.stall_every_s))
            self._stalled_until = time.monotonic() + self.profile.stall_s
            await asyncio.sleep(self.profile.stall_s)


class _Connection:
    """The two sockets of a connection."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.carried = 0
        self.broken = asyncio.Event()
        self._sockets = (near, far)

    def reset(self) -> None:
        """Let the connection end with RST at both ends, whatever is still in their buffers."""
        self.broken.set()

    def close(self) -> None:
        """Close both sockets; nobody may be waiting for them any more."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                if self.broken.is_set():
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
