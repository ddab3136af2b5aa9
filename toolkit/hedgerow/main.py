"""The `hedgerow` command: reads its arguments, runs one command, turns errors into a sentence and a code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from hedgerow.commands import client, coordinator, demo, doctor, export, init, inspect, report, simulate
from hedgerow.exit_codes import EXPECTED_ERRORS, ExitCode, code_of

COMMANDS = {
    "demo": demo,
    "init": init,
    "coordinator": coordinator,
    "client": client,
    "simulate": simulate,
    "export": export,
    "report": report,
    "inspect": inspect,
    "doctor": doctor,
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    root = argparse.ArgumentParser(
        prog="hedgerow", description="Federated learning with pruning on edge devices."
    )
    root.add_argument("--version", action="version", version=f"hedgerow {version('hedgerow')}")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        text = (module.__doc__ or "").strip().splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=text, description=module.__doc__))
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    try:
        return int(COMMANDS[options.command].run(options))
    except EXPECTED_ERRORS as error:
        print(f"hedgerow {options.command}: {error}", file=sys.stderr)
        return int(code_of(error))
    except KeyboardInterrupt:
        print(f"hedgerow {options.command}: interrupted", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (head, less) has left; that is no fault.
        sys.stderr.close()
        return int(ExitCode.DONE)


if __name__ == "__main__":
    sys.exit(main())
