"""A model over 4/1 Mbit/s that is reset every 700 kB: in chunks, and as one message."""

from __future__ import annotations

import queue
import random
import time

from benchmarks.faults import LinkProfile, Proxy
from benchmarks.light.trip import make_trip
from benchmarks.transport.brokers import PlainClient, broker_for, scratch

PROFILE = LinkProfile(
    down_bytes_per_s=500_000, up_bytes_per_s=125_000, latency_s=0.02, reset_every_bytes=700_000
)
NUM_PARAMETERS = 500_000
PLAIN_PATIENCE_S = 60.0


def measure() -> dict[str, float]:
    """Make the trip of a model and its update."""
    with scratch() as folder, broker_for(folder) as (_, port):
        trip = make_trip(
            broker_port=port,
            profile=PROFILE,
            folder=folder / "trip",
            num_parameters=NUM_PARAMETERS,
            timeout_s=300.0,
        )
    return {
        "model_bytes": trip.model_bytes,
        "update_bytes": trip.update_bytes,
        "reset_link_overhead": trip.down_overhead,
        "reset_link_up_overhead": trip.up_overhead,
        "resets": trip.num_resets,
        "seconds": trip.seconds,
    }


def measure_plain() -> dict[str, float | bool | None]:
    """Wait for one retained message of the same size; the overhead is None when it does not arrive."""
    message = random.Random(1).randbytes(4 * NUM_PARAMETERS)
    with scratch() as folder, broker_for(folder, plain=True) as (_, port):
        publisher = PlainClient(port)
        publisher.publish("model", message, retain=True).wait_for_publish(30)
        with Proxy(port, profile=PROFILE) as proxy:
            reader = PlainClient(proxy.port, "model")
            started = time.monotonic()
            try:
                arrived = reader.received.get(timeout=PLAIN_PATIENCE_S)[1] == message
            except queue.Empty:
                arrived = False
            result = {
                "arrived": arrived,
                "reset_link_overhead": proxy.down_bytes / len(message) if arrived else None,
                "carried_ratio": proxy.down_bytes / len(message),
                "resets": proxy.num_resets,
                "seconds": time.monotonic() - started,
            }
            reader.close()
        publisher.close()
    return result
