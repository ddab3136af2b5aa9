"""Take part in a run: train on this device's data, send coded updates. The data never leaves the device."""

from __future__ import annotations

import argparse
import os
import re
import socket
from pathlib import Path

from hedgerow.console import say, stop_on_signals
from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("task", type=Path, help="the task file; the same as on the gateway")
    parser.add_argument("--broker", required=True, help="for example mqtt://gateway:1883")
    parser.add_argument("--data", type=Path, help="folder with this device's data, handed to load_data")
    parser.add_argument("--name", help="this device's name; default: the host's name")
    parser.add_argument("--state-dir", type=Path, help="default: ~/.local/share/hedgerow/NAME")
    parser.add_argument("--namespace", default="default", help="[transport] namespace of the plan")
    parser.add_argument("--once", action="store_true", help="leave when the run is over")
    parser.add_argument("--wait", action="store_true", help="keep trying while the broker is away at the start")
    parser.add_argument("--threads", type=int, help="torch threads; default: one less than there are cores")


def run(options: argparse.Namespace) -> int:
    """Follow runs until told to stop."""
    from hedgerow_edge_client import ClientAgent, ClientSettings

    name = options.name or re.sub(r"[^a-z0-9_-]", "-", socket.gethostname().lower())[:32].strip("-_")
    if options.data is not None and not options.data.is_dir():
        raise UsageError(f"--data {options.data} is not a folder")
    if options.threads is not None and not 1 <= options.threads <= 256:
        raise UsageError(f"--threads must be from 1 to 256, not {options.threads}")
    settings = ClientSettings(
        task=options.task,
        broker=options.broker,
        data=options.data,
        name=name,
        directory=options.state_dir or _state_home() / name,
        namespace=options.namespace,
        once=options.once,
        wait_for_broker=options.wait,
        threads=options.threads,
    )
    leave = ClientAgent(settings, say=say).run(stop_on_signals())
    if leave is None:
        say(f"stopped; the state is kept in {settings.directory}: the same command goes on from there")
        return ExitCode.INTERRUPTED
    say(leave.reason)
    return ExitCode.RUN_FAILED if leave.failed else ExitCode.DONE


def _state_home() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or os.environ.get("XDG_DATA_HOME")
    return Path(home, "hedgerow") if home else Path.home() / ".local" / "share" / "hedgerow"
