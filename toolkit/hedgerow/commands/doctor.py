"""Check whether this machine can be a device or a gateway, and say what to do where it cannot.

Exit code 0 when nothing failed, else 5. A note is no failure: something has a drawback, is not installed, or
cannot be told. With --role, what that role cannot do without must be there.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from hedgerow.access import add_access_arguments, read_access
from hedgerow.exit_codes import ExitCode
from hedgerow_devices import Check
from hedgerow_transport import BrokerUrlError, CredentialsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="also check this broker, mqtt://[user:password@]host[:port] or mqtts://",
    )
    add_access_arguments(parser, maker="`hedgerow keys`")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="where state will be kept; default: the current folder"
    )
    parser.add_argument(
        "--role",
        choices=("client", "gateway", "all"),
        help="client needs torch, gateway needs onnx and onnxruntime; default: judge what is installed",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for a program")


def run(options: argparse.Namespace) -> int:
    """Run the checks and print them."""
    from hedgerow.diagnosis import for_role, lines_of, status_of
    from hedgerow_devices import run_checks

    checks = for_role(run_checks(directory=options.data, environ=os.environ), role=options.role)
    checks = (*checks, *_network_checks(options))
    failed = sum(check.ok is False for check in checks)
    if options.json:
        rows = [
            {"name": c.name, "status": status_of(c), "detail": c.detail, "remedy": c.remedy} for c in checks
        ]
        print(json.dumps({"checks": rows, "failed": failed}, indent=2))
    else:
        print("\n".join(lines_of(checks)))
    return ExitCode.RUN_FAILED if failed else ExitCode.DONE


def _network_checks(options: argparse.Namespace) -> tuple[Check, ...]:
    """Check credentials, and the broker with them."""
    from hedgerow.diagnosis import check_broker, check_credentials

    checks = [] if options.credentials is None else [check_credentials(options.credentials)]
    if options.broker is None:
        return (*checks, check_broker(None))
    try:
        broker = read_access(options, role=None).broker
    except (CredentialsError, BrokerUrlError):
        # The checks say what is wrong with either.
        broker = options.broker
    return (*checks, check_broker(broker))
