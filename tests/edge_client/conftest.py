"""A coordinator for sessions, led by hand, and a farm of devices for deliveries."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.edge_client.delivery_farm import Farm

from hedgerow_codecs import (
    NO_BASE,
    FrameKind,
    Layout,
    Mask,
    TensorSpec,
    codec_from_config,
    encode_frame,
    encode_mask,
    model_digest,
)
from hedgerow_edge_client import (
    ClientSession,
    MemoryState,
    Snapshot,
    TrainResult,
)
from hedgerow_transport import (
    Ack,
    BlobRef,
    Decline,
    Manifest,
    Need,
    Offer,
    Publication,
    RoundPlan,
    Sync,
    Topics,
    blob_digest,
    decode_message,
    encode_chunk,
    parse_topic,
)

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="w", shape=(4, 3), kind="linear", prunable=True),
        TensorSpec(name="b", shape=(4,), kind="bias", prunable=False),
    )
)


TOPICS = Topics("t")


DENSE = Mask.dense(LAYOUT)


THIN = Mask(layout=LAYOUT, live=np.arange(16) >= 6)


FLOAT32 = codec_from_config({"codec_id": "float32"})


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path)


class Leader:
    """A coordinator that knows the model of every version: all weights are the version."""

    def __init__(self, client="pi", *, memory=None, once=False, plan=None):
        self.memory = memory or MemoryState()
        self.received = 0
        self.plan = RoundPlan(
            seed=1, epochs=1, batch_size=4, learning_rate=0.1, codec={"codec_id": "uniform"}, max_seconds=0.0
        )
        self.plan = replace(self.plan, **(plan or {}))
        self.session = ClientSession(
            client,
            layout=LAYOUT,
            topics=TOPICS,
            memory=self.memory,
            session=self.memory.next_session(),
            profile={"cores": 4},
            jitter=lambda: 0.0,
            received_bytes=lambda: self.received,
            once=once,
        )
        self.blobs = {}

    def blob(self, kind, data):
        ref = BlobRef(kind=kind, digest=blob_digest(data), size=len(data))
        self.blobs[ref.digest] = data
        return ref

    @staticmethod
    def weights(version, mask=DENSE):
        return np.where(mask.live, np.float32(version), np.float32(0))

    def keyframe(self, version, mask=DENSE):
        frame = encode_frame(
            mask.gather(self.weights(version, mask)),
            kind=FrameKind.KEYFRAME,
            mask=mask,
            base=NO_BASE,
            codec=FLOAT32,
        )
        return self.blob("mask", encode_mask(mask)), self.blob("keyframe", frame)

    def step(self, version, mask=DENSE, before=DENSE):
        """Return the way from the version before."""
        refs = ()
        if mask != before:
            refs = (self.blob("mask_delta", encode_mask(mask, previous=before)),)
        frame = encode_frame(
            np.ones(mask.num_live, np.float32),
            kind=FrameKind.MODEL_DELTA,
            mask=mask,
            base=model_digest(self.weights(version - 1, before), mask=before),
            codec=FLOAT32,
        )
        return (*refs, self.blob("model_delta", frame))

    def manifest(self, version=0, state="round", *, mask=DENSE, **changes):
        plan = self.blob("plan", self.plan.encode())
        manifest = Manifest(
            run="r",
            state=state,
            round=version + 1,
            attempt=1,
            version=version,
            layout=LAYOUT.digest,
            mask=mask.digest,
            model=model_digest(self.weights(version, mask), mask=mask),
            plan=plan,
            steps=self.keyframe(version, mask),
            base_version=-1,
            deadline_s=600.0,
            chunk_bytes=64,
        )
        return replace(manifest, **changes)

    def hear(self, topic, message, *, now=0.0):
        payload = message if isinstance(message, bytes) else message.encode()
        return self.session.handle(topic, payload, now=now)

    def announce(self, manifest=None, *, now=0.0):
        return self.hear(TOPICS.manifest, manifest or self.manifest(), now=now)

    def send(self, *refs, now=0.0):
        """Broadcast blobs whole."""
        actions = []
        for ref in refs:
            data = self.blobs[ref.digest]
            for index in range(-(-len(data) // 64)):
                payload = encode_chunk(index, data[64 * index : 64 * index + 64])
                actions += self.hear(TOPICS.blob(ref.digest), payload, now=now)
        return actions

    def lead(self, manifest=None, *, now=0.0):
        """Announce and send all that the manifest names."""
        manifest = manifest or self.manifest()
        actions = self.announce(manifest, now=now)
        return actions + self.send(manifest.plan, *manifest.steps, now=now)

    def train(self, change=0.25, *, now=0.0, **changes):
        snapshot = self.snapshot
        weights = snapshot.weights + np.where(snapshot.live, np.float32(change), np.float32(0))
        result = TrainResult(weights=weights, num_samples=9, loss=0.5, accuracy=0.75, steps=3, seconds=1.5)
        return self.session.trained(replace(result, **changes), now=now)

    def down(self, message, *, now=0.0):
        return self.hear(TOPICS.down("pi"), message, now=now)

    def ack(self, offer, status="accepted", *, now=0.0):
        word = Ack(run="r", round=offer.round, digest=offer.update.digest, status=status, reason="why")
        return self.down(word, now=now)

    @property
    def snapshot(self) -> Snapshot:
        snapshot = self.memory.load()
        assert snapshot is not None
        return snapshot


def kinds(actions):
    return [
        parse_topic(action.topic).kind if isinstance(action, Publication) else type(action).__name__
        for action in actions
    ]


def said(actions, message):
    """Return the one publication of a message type, decoded."""
    names = {Offer: "offer", Decline: "decline", Sync: "sync", Need: "need"}
    (found,) = [
        decode_message(a.payload, message)
        for a in actions
        if isinstance(a, Publication) and parse_topic(a.topic).kind == names[message]
    ]
    return found


def only(actions, kind):
    (found,) = [action for action in actions if isinstance(action, kind)]
    return found
