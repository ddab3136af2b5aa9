"""The doctor's checks: which of them matter for a role, the broker's, and how they are printed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from hedgerow.access import expiry_warnings
from hedgerow_devices import Check, installed_torch
from hedgerow_transport import (
    DEFAULT_CHUNK_BYTES,
    BrokerFacts,
    BrokerUrl,
    BrokerUrlError,
    Credentials,
    CredentialsError,
    fitting_chunk_bytes,
    probe_broker,
)

PROBE_TIMEOUT_S = 5.0
_NEEDS = {"client": ("torch",), "gateway": ("onnx", "onnxruntime")}
_NEEDS["all"] = (*_NEEDS["client"], *_NEEDS["gateway"])
# About training, which a gateway does not do.
_TRAINING = ("torch", "torch-trial", "threads", "memory")
_STATUS = {True: "ok", False: "FAIL", None: "note"}


def for_role(checks: Iterable[Check], *, role: str | None) -> tuple[Check, ...]:
    """Judge checks for what the machine is to be.

    Parameters
    ----------
    checks : iterable of Check
    role : str or None
        ``client``, ``gateway``, ``all``, or None: what is missing is a note, what is broken a failure.
    """
    return tuple(_judged(check, role=role) for check in checks)


def check_broker(url: str | None) -> Check:
    """Check that a broker answers and takes packets as large as Hedgerow sends."""
    if url is None:
        return Check(
            name="broker",
            ok=None,
            detail="Not checked.",
            remedy="To check one: hedgerow doctor --broker mqtt://HOST:1883",
        )
    try:
        place = BrokerUrl.parse(url).place
    except BrokerUrlError as error:
        return Check(name="broker", ok=False, detail=_sentence(str(error)))
    return judge_broker(probe_broker(url, timeout_s=PROBE_TIMEOUT_S), place=place)


def check_credentials(directory: Path) -> Check:
    """Check that a folder of credentials is whole, private and still good."""
    try:
        found = Credentials.load(directory)
    except CredentialsError as error:
        return Check(name="credentials", ok=False, detail=_sentence(str(error)))
    day = time.strftime("%Y-%m-%d", time.gmtime(found.expires))
    detail = f"Those of the {found.role} '{found.name}', good until {day}."
    warnings = expiry_warnings(found, now=time.time())
    if not warnings:
        return Check(name="credentials", ok=True, detail=detail)
    ok = False if found.expires < time.time() else None
    return Check(name="credentials", ok=ok, detail=detail, remedy=_sentence(" ".join(warnings)))


def judge_broker(facts: BrokerFacts, *, place: str) -> Check:
    """Judge what a broker said about itself; `place` is its host and port."""
    if not facts.reachable:
        remedy = (
            "Use another broker, such as Mosquitto."
            if facts.protocol  # it has let us in, and cannot be used
            else "Check host, port, user, and that the broker listens for other machines, too."
        )
        return Check(name="broker", ok=False, detail=_sentence(facts.reason), remedy=remedy)
    limit = facts.max_packet_bytes
    room = fitting_chunk_bytes(DEFAULT_CHUNK_BYTES, max_packet_bytes=limit)
    takes = "does not tell its largest packet" if limit is None else f"takes packets of {limit:,} bytes"
    detail = f"{place} speaks MQTT {facts.protocol} and {takes}."
    if room < DEFAULT_CHUNK_BYTES:
        return Check(
            name="broker",
            ok=None,
            detail=detail,
            remedy=f"The coordinator will send chunks of {room} bytes."
            if room
            else "Raise the broker's limit, or use another broker: it takes less than one chunk.",
        )
    return Check(name="broker", ok=True, detail=detail)


def status_of(check: Check) -> str:
    """Return ``ok``, ``FAIL`` or ``note``."""
    return _STATUS[check.ok]


def lines_of(checks: Sequence[Check]) -> list[str]:
    """Return a line for each check, its remedy on the next, and a last line that sums up."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{status_of(check):<4}  {check.name:<{width}}  {check.detail}")
        if check.remedy:
            lines.append(f"{'':<4}  {'':<{width}}  {check.remedy}")
    failed = sum(check.ok is False for check in checks)
    return [*lines, "", f"{failed} of {len(checks)} checks failed" if failed else "no check failed"]


def _judged(check: Check, *, role: str | None) -> Check:
    if role is None:
        return check
    missing = check.ok is None and check.name in _NEEDS[role] and not _is_installed(check)
    if missing:
        return replace(check, ok=False)
    if role == "gateway" and check.ok is False and check.name in _TRAINING:
        return replace(check, ok=None, detail=f"{check.detail} A gateway does not train.")
    return check


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _is_installed(check: Check) -> bool:
    # For the others a note says just that; torch may be there and have a drawback.
    return check.name == "torch" and installed_torch()[0] is not None
