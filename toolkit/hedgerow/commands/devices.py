"""List who is there: the coordinator, and every device with its state, profile and when it was seen last."""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hedgerow.access import add_access_arguments, read_access
from hedgerow.exit_codes import ExitCode

if TYPE_CHECKING:
    from hedgerow.roll_call import Attendee, Leader, Roll

_HEAD = ("name", "", "does", "since", "cores", "memory", "machine")
_RUN_STATES = {
    "waiting": "waiting for clients before round {}",
    "round": "round {} is running",
    "finished": "the run is finished",
    "failed": "the run has failed in round {}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument(
        "--broker",
        metavar="URL",
        default="mqtt://localhost:1883",
        help="mqtt://[user:password@]host[:port], or mqtts:// for TLS; default: %(default)s",
    )
    parser.add_argument(
        "--namespace", default="default", help="[transport] namespace of the plan; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for a program")
    add_access_arguments(parser, maker="`hedgerow keys init` (its folder coordinator)")


def run(options: argparse.Namespace) -> int:
    """Ask the broker, and print what it has."""
    from hedgerow.roll_call import RollCall, filters
    from hedgerow_transport import BrokerUrl, Devices, Guard, MqttLink, Topics

    topics = Topics(options.namespace)
    access = read_access(options, role="coordinator")
    credentials = access.credentials
    call = RollCall(topics)
    if credentials is not None:
        guard = Guard(credentials, topics=topics, looks_on=True)
        call = RollCall(topics, guard=guard, known=Devices.read(credentials.register).by_name)
    link = MqttLink(
        access.broker, client_id=f"hedgerow-devices-{secrets.token_hex(4)}", filters=filters(topics)
    )
    link.connect()
    try:
        call.listen(link)
    finally:
        link.close()
    now = int(time.time())
    roll, place = call.roll(now=now), BrokerUrl.parse(access.broker).place
    if options.json:
        print(json.dumps(_facts(roll, place=place, namespace=options.namespace, now=now), indent=2))
    else:
        print("\n".join([*access.warnings, *_lines(roll, place=place, namespace=options.namespace)]))
    return ExitCode.DONE


def _facts(roll: Roll, *, place: str, namespace: str, now: int) -> dict[str, object]:
    leader = roll.leader
    coordinator = None
    if leader is not None:
        coordinator = {
            "online": leader.online,
            "run": leader.run or None,
            "message": leader.message,
            "since": leader.since or None,
            "state": leader.state or None,
            "round": leader.round or None,
            "signature": leader.signature,
            "problem": leader.problem,
        }
    devices = [
        {
            "name": device.name,
            "online": device.online,
            "state": device.state or None,
            "round": device.round or None,
            "reason": device.reason,
            "since": device.since or None,
            "last_seen": device.last_seen or None,
            "vanished": device.vanished,
            "profile": dict(device.profile),
            "signature": device.signature,
            "problem": device.problem,
        }
        for device in roll.devices
    ]
    return {
        "broker": place,
        "namespace": namespace,
        "asked_at": now,
        "coordinator": coordinator,
        "devices": devices,
    }


def _lines(roll: Roll, *, place: str, namespace: str) -> list[str]:
    from hedgerow.roll_call import UNCHECKED

    if roll.leader is None and not roll.devices:
        return [
            f"nobody is there: neither coordinator nor device has been in namespace '{namespace}' of {place}",
            "is it the --namespace of the plan, and may this user read it (see hedgerow broker)?",
        ]
    lines = [_of_leader(roll.leader)]
    if roll.devices:
        lines += _table([_HEAD, *(_row(device) for device in roll.devices)])
    else:
        lines.append("no device has been here")
    lines += [f"{device.name}: {_printable(device.problem)}" for device in roll.devices if device.problem]
    if any(one.signature == UNCHECKED for one in (roll.leader, *roll.devices) if one is not None):
        lines.append("signatures are not checked without --credentials keys/coordinator")
    return lines


def _of_leader(leader: Leader | None) -> str:
    if leader is None:
        return "coordinator: none has been here"
    if not leader.run:
        return f"coordinator: {_printable(leader.problem)}"
    words = [f"coordinator: {'here' if leader.online else 'away'}"]
    if leader.since:
        words.append(f" since {_clock(leader.since)}")
    if not leader.online and leader.message:
        words.append(f" ({leader.message})")
    words.append(f", run '{leader.run}'")
    if leader.state:
        words.append(f", {_RUN_STATES[leader.state].format(leader.round)}")
    if leader.problem:
        words.append(f"; its manifest: {_printable(leader.problem)}")
    return "".join(words)


def _row(device: Attendee) -> tuple[str, ...]:
    from hedgerow.roll_call import HOLDS

    if device.problem:
        return (device.name, "?" if device.signature != HOLDS else "-", "", "", "", "", "")
    if not device.online:
        word = "was here, lost after" if device.vanished else "left"
        return (device.name, "gone", word if device.last_seen else "", _clock(device.last_seen), "", "", "")
    does = device.state
    if device.round and does in ("training", "sending", "paused"):
        does += f", round {device.round}"
    if device.reason:
        does += f": {_printable(device.reason)}"
    cores, memory, machine = (device.profile.get(key) for key in ("cores", "ram_mib", "machine"))
    return (
        device.name,
        "here",
        does,
        _clock(device.since),
        str(cores) if isinstance(cores, int) else "",
        f"{memory:,} MiB" if isinstance(memory, int) else "",
        _printable(str(machine or "")),
    )


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _clock(unix: int) -> str:
    if not unix:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix))
    except (OverflowError, ValueError, OSError):
        return "?"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:200]
