"""Chunks that fit brokers which are not ours."""

from __future__ import annotations

import pytest

from hedgerow_transport import (
    BROKER_PRESETS,
    MAX_CHUNK_BYTES,
    Topics,
    encode_chunk,
    fitting_chunk_bytes,
    publish_bytes,
)

LONGEST = Topics("n" * 32)
# What the makers say; see the reasons beside the presets.
LIMITS = {"any": 64_000, "aws-iot": 128_000, "azure-event-grid": 64_000, "emqx-serverless": 1_000_000}


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_a_presets_packets_are_below_the_limit(name: str) -> None:
    chunk = encode_chunk(0, bytes(BROKER_PRESETS[name].chunk_bytes))
    assert publish_bytes(LONGEST.up("c" * 32, "chunk"), chunk, 1) < LIMITS[name]
    assert publish_bytes(LONGEST.blob(bytes(16)), chunk, 1) < LIMITS[name]


def test_presets_are_sizes_that_a_plan_may_have() -> None:
    assert all(1024 <= preset.chunk_bytes <= 262_144 for preset in BROKER_PRESETS.values())


@pytest.mark.parametrize("limit", [1500, 4096, 65_536, 131_072, 1_000_000])
def test_what_is_fitted_fits(limit: int) -> None:
    fitting = fitting_chunk_bytes(MAX_CHUNK_BYTES, max_packet_bytes=limit)
    assert fitting % 1024 == 0
    chunk = encode_chunk(0, bytes(fitting))
    assert publish_bytes(LONGEST.up("c" * 32, "chunk"), chunk, 1) < limit
    assert fitting + 1024 + 256 >= limit  # and no more is given away than there must be


def test_what_fits_is_left_alone_and_what_cannot_is_0() -> None:
    assert fitting_chunk_bytes(49_152, max_packet_bytes=49_409) == 49_152
    assert fitting_chunk_bytes(49_152, max_packet_bytes=49_408) == 48_128
    assert fitting_chunk_bytes(49_152, max_packet_bytes=100) == 0


def test_topics_and_filters_are_within_what_public_brokers_allow() -> None:
    topics = [LONGEST.up("a", "offer"), LONGEST.blob(bytes(16)), LONGEST.down("a"), LONGEST.presence("a")]
    assert max(topic.count("/") + 1 for topic in topics) <= 7
    # A client also listens to its own presence.
    assert len(LONGEST.client_filters("a")) + 1 <= 8
    assert len(LONGEST.coordinator_filters()) + 1 <= 8
