"""Take part in a run: train on this device's data, send coded updates. The data never leaves the device."""

from __future__ import annotations

import argparse
import os
import re
import socket
from pathlib import Path

from hedgerow.access import add_access_arguments, read_access
from hedgerow.console import say, stop_on_signals
from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode
from hedgerow_transport import Credentials, check_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("task", type=Path, help="the task file, the same that `hedgerow init` was given")
    parser.add_argument(
        "--broker",
        metavar="URL",
        required=True,
        help="mqtt://[user:password@]host[:port], such as mqtt://gateway, or mqtts:// for TLS",
    )
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, help="folder with this device's data, handed to load_data"
    )
    parser.add_argument(
        "--name",
        help="this device's name, which no other client of the run has; default: that of --credentials, "
        "else the host's name",
    )
    parser.add_argument(
        "--state-dir",
        metavar="FOLDER",
        type=Path,
        help="where the model and an unsent update are kept; default: ~/.local/share/hedgerow/NAME",
    )
    parser.add_argument(
        "--namespace", default="default", help="[transport] namespace of the plan; default: %(default)s"
    )
    parser.add_argument("--once", action="store_true", help="leave when the run is over")
    parser.add_argument(
        "--wait", action="store_true", help="keep trying while the broker is away at the start"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, help="torch threads; default: one less than there are cores"
    )
    add_access_arguments(parser, maker="`hedgerow keys join`")


def run(options: argparse.Namespace) -> int:
    """Follow runs until told to stop."""
    from hedgerow_edge_client import ClientAgent, ClientSettings

    access = read_access(options, role="device")
    name = _name(options.name, access.credentials)
    if options.data is not None and not options.data.is_dir():
        raise UsageError(f"--data {options.data} is not a folder")
    if options.threads is not None and not 1 <= options.threads <= 256:
        raise UsageError(f"--threads must be from 1 to 256, not {options.threads}")
    settings = ClientSettings(
        task=options.task,
        broker=access.broker,
        data=options.data,
        name=name,
        directory=options.state_dir or _state_home() / name,
        namespace=options.namespace,
        once=options.once,
        wait_for_broker=options.wait,
        threads=options.threads,
        credentials=access.credentials,
    )
    for warning in access.warnings:
        say(warning)
    with stop_on_signals() as stop:
        try:
            leave = ClientAgent(settings, say=say).run(stop)
        except KeyboardInterrupt:
            leave = None
    if leave is None:
        say(f"stopped; the state is kept in {settings.directory}: the same command goes on from there")
        return ExitCode.INTERRUPTED
    say(leave.reason)
    return ExitCode.RUN_FAILED if leave.failed else ExitCode.DONE


def _name(wanted: str | None, credentials: Credentials | None) -> str:
    name = None if wanted is None else check_name(wanted, what="--name")
    if credentials is None:
        return name or _host_name()
    if name not in (None, credentials.name):
        raise UsageError(f"--name is {name}, but the credentials are for {credentials.name}")
    return credentials.name


def _host_name() -> str:
    return re.sub(r"[^a-z0-9_-]", "-", socket.gethostname().lower())[:32].strip("-_") or "device"


def default_state_directory(name: str | None) -> Path:
    """Return where the client of a name keeps its state, unless it was told otherwise."""
    return _state_home() / (_host_name() if name is None else check_name(name, what="--name"))


def _state_home() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or os.environ.get("XDG_DATA_HOME")
    return Path(home, "hedgerow") if home else Path.home() / ".local" / "share" / "hedgerow"
