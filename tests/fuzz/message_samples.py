"""One message of every type, most of their fields set."""

from __future__ import annotations

from hedgerow_transport import (
    Accept,
    Ack,
    BlobRef,
    CoordinatorState,
    Decline,
    Delivery,
    DeliveryReport,
    DeviceState,
    Manifest,
    Message,
    Need,
    Offer,
    Presence,
    Rebirth,
    RoundPlan,
    Route,
    Sync,
    encode_cohort,
)

DIGEST = bytes(range(16))
UPDATE = BlobRef(kind="update", digest=DIGEST, size=5000)
MANIFEST = Manifest(
    run="run-1",
    state="round",
    round=3,
    attempt=1,
    version=2,
    layout=DIGEST,
    mask=DIGEST,
    model=DIGEST,
    plan=BlobRef(kind="plan", digest=DIGEST, size=90),
    steps=(UPDATE,),
    base_version=1,
    cohort=encode_cohort(["pi-1", "pi-2"]),
    deadline_s=30.0,
)
PLAN = RoundPlan(
    seed=7,
    epochs=1,
    batch_size=64,
    learning_rate=0.01,
    codec={"codec_id": "deadzone", "step": 0.5, "stages": ["rans", {"lanes": 4}], "x": None, "y": True},
    max_seconds=60.0,
    feedback="ef21",
)
SAMPLES: tuple[Message, ...] = (
    MANIFEST,
    PLAN,
    Sync(version=-1, model=DIGEST),
    Route(version=4, steps=(UPDATE, UPDATE), base_version=-1),
    Need(digest=DIGEST, bitmap=b"\x05"),
    Offer(
        run="run-1",
        round=3,
        update=UPDATE,
        num_samples=10,
        metrics={"loss": 0.5},
        train_s=1.5,
        estimate=DIGEST,
    ),
    Accept(run="run-1", round=3, digest=DIGEST, have=b"\x01"),
    Ack(run="run-1", round=3, digest=DIGEST, status="late", reason="the round is over"),
    Decline(run="run-1", round=3, reason="too warm"),
    Presence(
        client="pi-1",
        session=4,
        online=True,
        profile={"ram_mib": 4096, "model": "Pi 4", "t": 51.5, "b": None},
        at=1_800_000_000,
    ),
    CoordinatorState(run="run-1", session=2, online=False, message="stopped", at=1_800_000_000),
    DeviceState(session=4, state="paused", round=3, at=1_800_000_000, reason="too warm"),
    Rebirth(),
    Delivery(
        model=BlobRef(kind="export", digest=DIGEST, size=9), devices="pi-*,shed", serial=4, at=1_800_000_000
    ),
    DeliveryReport(
        model=DIGEST,
        purpose="calibrate",
        outcome="measured",
        metric="accuracy",
        numbers={"after": 0.9, "samples": 100},
        ranges=b"\x01\x02",
        in_use=DIGEST,
    ),
)
