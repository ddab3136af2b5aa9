"""Brokers to measure, what they and others have taken of memory, and clients that use MQTT plainly."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from hedgerow_transport import Broker, MosquittoConfig, run_mosquitto, start_broker

LOOPBACK = "127.0.0.1"
# Above any message of these benchmarks.
PLAIN_PACKET_BYTES = 200 << 20


@contextlib.contextmanager
def scratch(place: Path | None = None) -> Iterator[Path]:
    """Give a folder that Mosquitto's own user can enter."""
    with tempfile.TemporaryDirectory(prefix="hedgerow-benchmark-", dir=place) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def broker_for(folder: Path, *, plain: bool = False) -> Iterator[tuple[Broker, int]]:
    """Run Mosquitto as Hedgerow does, or with room for messages of any size; give it and its port."""
    if plain:
        with socket.create_server((LOOPBACK, 0)) as free:
            port = free.getsockname()[1]
        config = MosquittoConfig(port=port, max_packet_bytes=PLAIN_PACKET_BYTES)
        started = run_mosquitto(config, directory=folder / "plain-broker")
    else:
        started = start_broker(directory=folder / "broker", prefer="mosquitto")
    with started as broker:
        yield broker, int(broker.url.rsplit(":", 1)[1])


def peak_mib(pid: int) -> float:
    """Return the largest resident set that a process has had, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"this system does not tell the memory of process {pid}")


class PlainClient:
    """A client as a first program with MQTT has it: paho with its own thread, whole messages, QoS 1.

    Parameters
    ----------
    port : int
        Of the broker.
    filters : str
        What is subscribed at each connect.

    Attributes
    ----------
    received : queue.SimpleQueue
        (topic, payload) of each message.
    """

    def __init__(self, port: int, *filters: str) -> None:
        self.received: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._filters = filters
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._ready: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._client.connect(LOOPBACK, port, keepalive=30)
        self._client.loop_start()
        self._ready.get(timeout=30)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> paho.MQTTMessageInfo:
        """Send one message at QoS 1."""
        return self._client.publish(topic, payload, qos=1, retain=retain)

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, *_: Any) -> None:
        if self._filters:
            self._client.subscribe([(each, 1) for each in self._filters])
        else:
            self._ready.put(None)

    def _on_subscribe(self, *_: Any) -> None:
        self._ready.put(None)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.received.put((message.topic, bytes(message.payload)))


def wait_until(condition: Any, what: str, *, timeout_s: float) -> float:
    """Wait for a condition; return the seconds it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"no {what} within {timeout_s:g} s")
        time.sleep(0.02)
    return time.monotonic() - started


def one_thread() -> None:
    """Keep numpy to one thread, here and in what is started from here."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
