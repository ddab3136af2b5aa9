"""Plans, run directories, and what a client keeps on its disk."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from hedgerow.errors import UsageError
from hedgerow.inspection.arrays import mask_rows
from hedgerow.inspection.description import Description, Fact, density_fact, digest_fact, size_fact
from hedgerow.quantities import bytes_text, ratio_text, seconds_text
from hedgerow.report.facts import RunFacts, collect_facts
from hedgerow_coordinator import PlanError, RunStore, StoreError, parse_plan

STATE_MAGIC = b"HGSTATE1"
_DIGEST_BYTES = 16
_KEPT_BY_FEEDBACK = {"residual": "residual", "ef21": "estimate of EF21", "none": "no error feedback"}


def describe_run(directory: Path) -> Description:
    """Describe a run directory from its journal and its newest checkpoint."""
    try:
        with RunStore.open(directory, read_only=True) as store:
            facts = collect_facts(store)
            latest = None if facts.unread else store.latest()
    except StoreError as error:
        raise UsageError(f"cannot be read as a run: {error}") from error
    entries = [Fact(name="run", value=facts.run_id), *_progress(facts), *_traffic(facts)]
    notes = (f"No checkpoint could be read: {facts.unread}.",) if facts.unread else ()
    if latest is None:
        return Description(what="a run", facts=tuple(entries), notes=notes)
    mask = latest[1].mask
    entries += [
        density_fact(mask.num_live, mask.layout.num_parameters),
        digest_fact("layout", mask.layout.digest),
        digest_fact("mask", mask.digest),
    ]
    return Description(what="a run", facts=tuple(entries), tensors=mask_rows(mask), notes=notes)


def describe_plan(data: bytes, *, source: str) -> Description:
    """Describe a plan; UsageError with file, line and key when it is not right."""
    try:
        plan = parse_plan(data, source=source)
    except PlanError as error:
        raise UsageError(f"is not a plan that can be used: {error}") from error
    facts = [
        Fact(name=f"{table}.{key}", value=value, text=_setting(value))
        for table, values in plan.settings().items()
        for key, value in values.items()
    ]
    return Description(
        what=f"a plan of {plan.run.rounds} rounds, with defaults filled in",
        facts=(size_fact(len(data)), digest_fact("digest", plan.digest), *facts),
    )


def describe_client_state(data: bytes) -> Description:
    """Describe a client's snapshot or its count of starts."""
    start = len(STATE_MAGIC) + _DIGEST_BYTES
    body = data[start:]
    if blake2b(body, digest_size=_DIGEST_BYTES).digest() != data[len(STATE_MAGIC) : start]:
        raise UsageError("is the state of a client, but damaged: its content does not fit its digest")
    try:
        content = msgpack.unpackb(body, raw=False)
        if set(content) == {"session"}:
            return Description(
                what="a client's count of its starts",
                facts=(Fact(name="session", value=int(content["session"])),),
            )
        return _snapshot(content, num_bytes=len(data))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise UsageError(f"is the state of a client, but not one that this version knows: {error}") from error


def _progress(facts: RunFacts) -> list[Fact]:
    done = facts.committed[-1].round if facts.committed else 0
    state = "finished" if facts.finished else f"failed: {facts.failure}" if facts.failure else "not finished"
    failed = len(facts.attempts) - len(facts.committed)
    entries = [
        Fact(name="state", value=state),
        Fact(name="rounds", value=done, text=f"{done} of {facts.planned_rounds}"),
        Fact(name="failed_attempts", value=failed),
        Fact(name="clients", value=len(facts.clients)),
        Fact(name="seconds_in_rounds", value=facts.seconds, text=seconds_text(facts.seconds)),
    ]
    if facts.measured:
        last = facts.measured[-1]
        value = last.accuracy
        entries.append(Fact(name=facts.metric, value=value, text=f"{value:.4g} after round {last.round}"))
    else:
        why = "not yet" if facts.has_test_data else "no test data"
        entries.append(Fact(name=facts.metric, value=None, text=f"not measured ({why})"))
    return entries


def _traffic(facts: RunFacts) -> list[Fact]:
    entries = [
        size_fact(facts.uplink_bytes, name="bytes_up"),
        size_fact(facts.downlink_bytes, name="bytes_down"),
        size_fact(facts.broadcast_bytes, name="bytes_sent_by_coordinator"),
    ]
    if facts.dense_bytes:
        text = (
            f"{bytes_text(facts.dense_bytes)} each way (computed, not measured): "
            f"up is {ratio_text(facts.uplink_bytes, facts.dense_bytes)}"
        )
        entries.append(Fact(name="dense_float32_bytes_computed", value=facts.dense_bytes, text=text))
    return entries


def _snapshot(content: dict[str, Any], *, num_bytes: int) -> Description:
    num_parameters = len(content["weights"]) // 4
    live = np.unpackbits(np.frombuffer(content["live"], np.uint8), count=num_parameters)
    pending = content["pending"]
    kept = _KEPT_BY_FEEDBACK[content.get("feedback", "residual")]
    waits = "none" if pending is None else f"of round {pending['round']}, {bytes_text(len(pending['frame']))}"
    return Description(
        what=f"what a client keeps: model, mask, {kept}",
        facts=(
            size_fact(num_bytes),
            Fact(name="run", value=str(content["run"]), text=str(content["run"]) or "none yet"),
            Fact(name="version", value=int(content["version"])),
            Fact(name="done_round", value=int(content["done_round"])),
            density_fact(int(live.sum()), num_parameters),
            digest_fact("layout", bytes(content["layout"])),
            Fact(name="unsent_update", value=None if pending is None else int(pending["round"]), text=waits),
        ),
    )


def _setting(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
