"""Models and updates over bad links: real agents, a real Mosquitto, and a proxy between the device and it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.faults import LinkProfile
from benchmarks.light.trip import make_trip

from hedgerow_transport import Broker, BrokerMissing, start_broker

KBIT = 125.0
RESETS = LinkProfile(
    down_bytes_per_s=4000 * KBIT, up_bytes_per_s=1000 * KBIT, latency_s=0.02, reset_every_bytes=700_000
)
# A cell's edge: late, uneven, and one piece in a hundred is the last of its connection.
CELL = LinkProfile(
    down_bytes_per_s=2000 * KBIT,
    up_bytes_per_s=400 * KBIT,
    latency_s=0.15,
    jitter_s=0.1,
    stall_every_s=5.0,
    stall_s=0.5,
    reset_share=0.01,
)
NARROW = LinkProfile(down_bytes_per_s=20 * KBIT, up_bytes_per_s=20 * KBIT, latency_s=0.3)
# The light trainer's steps are whole, so that five bits lose nothing.
SHORT_UPDATE: dict[str, object] = {"codec_id": "integer", "step": 2.0**-10, "bits": 5, "packed": True}
TWO_MB = 500_000


@pytest.fixture(scope="module")
def broker_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    try:
        broker: Broker = start_broker(directory=tmp_path_factory.mktemp("broker"), prefer="mosquitto")
    except BrokerMissing as error:
        pytest.fail(f"Mosquitto is missing: apt-get install mosquitto ({error})")
    with broker:
        yield int(broker.url.rsplit(":", 1)[1])


def test_two_megabytes_come_over_a_link_that_is_reset_every_700_kilobytes(
    broker_port: int, tmp_path: Path
) -> None:
    trip = make_trip(
        broker_port=broker_port,
        profile=RESETS,
        folder=tmp_path,
        num_parameters=TWO_MB,
        uplink=SHORT_UPDATE,
    )
    print(f"\nresets every 700 kB: {trip}")
    assert trip.num_resets >= 3
    assert trip.down_overhead <= 1.4
    assert trip.up_overhead <= 1.4


def test_a_model_and_its_update_come_over_a_cell_s_edge(broker_port: int, tmp_path: Path) -> None:
    # So few bytes may meet no reset by chance.
    profile = replace(CELL, reset_share=0.0, reset_every_bytes=150_000)
    trip = make_trip(
        broker_port=broker_port, profile=profile, folder=tmp_path, num_parameters=TWO_MB // 10, seed=3
    )
    print(f"\n150 ms, jitter, resets every 150 kB: {trip}")
    assert trip.num_resets >= 1
    assert trip.down_overhead <= 1.5
    assert trip.up_overhead <= 1.5


def test_20_kbit_s_carry_a_small_model_and_nothing_twice(broker_port: int, tmp_path: Path) -> None:
    trip = make_trip(
        broker_port=broker_port, profile=NARROW, folder=tmp_path, num_parameters=4096, chunk_bytes=4096
    )
    print(f"\n20 kbit/s: {trip}")
    assert trip.down_overhead <= 1.2
    assert trip.up_overhead <= 1.2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("profile", "uplink", "bound"),
    [
        pytest.param(RESETS, None, 1.4, id="resets every 700 kB"),
        pytest.param(CELL, None, 1.5, id="150 ms, jitter, 1 % resets"),
        pytest.param(NARROW, SHORT_UPDATE, 1.1, id="20 kbit/s"),
    ],
)
def test_two_megabytes_come_over_any_link(
    profile: LinkProfile,
    uplink: dict[str, object] | None,
    bound: float,
    broker_port: int,
    tmp_path: Path,
) -> None:
    trip = make_trip(
        broker_port=broker_port,
        profile=profile,
        folder=tmp_path,
        num_parameters=TWO_MB,
        uplink=uplink,
        timeout_s=1500.0,
        seed=4,
    )
    print(f"\n{trip}")
    assert trip.down_overhead <= bound
    assert trip.up_overhead <= bound
