"""The `hedgerow` command: reads its arguments, runs one command, turns errors into a sentence and a code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from hedgerow.commands import (
    broker,
    calibrate,
    client,
    coordinator,
    deliver,
    demo,
    devices,
    doctor,
    export,
    infer,
    init,
    inspect,
    keys,
    model,
    personalise,
    policies,
    report,
    simulate,
)
from hedgerow.console import interrupted_by_signals, mute
from hedgerow.exit_codes import EXPECTED_ERRORS, MEANINGS, ExitCode, code_of
from hedgerow.fork_guard import can_fork, guarded

COMMANDS = {
    "demo": demo,
    "init": init,
    "policies": policies,
    "broker": broker,
    "keys": keys,
    "coordinator": coordinator,
    "client": client,
    "devices": devices,
    "simulate": simulate,
    "export": export,
    "calibrate": calibrate,
    "deliver": deliver,
    "model": model,
    "personalise": personalise,
    "infer": infer,
    "report": report,
    "inspect": inspect,
    "doctor": doctor,
}
# These load ONNX files that Hedgerow may not have written.
READ_FOREIGN_MODELS = ("export", "infer", "inspect", "calibrate", "deliver")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    root = argparse.ArgumentParser(
        prog="hedgerow",
        description="Federated learning with pruning on edge devices. A first try: hedgerow demo",
        epilog=MEANINGS,
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
    # As a command of its own, that is; whoever calls us as a function has threads and captured output.
    if arguments is None and options.command in READ_FOREIGN_MODELS and can_fork():
        return guarded(options.command, lambda: _run(options))
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        with interrupted_by_signals():
            code = int(COMMANDS[options.command].run(options))
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # Somebody has read enough; that is no fault.
        mute()
        return int(ExitCode.DONE)
    except EXPECTED_ERRORS as error:
        print(f"hedgerow {options.command}: {_sentence(error)}", file=sys.stderr)
        return int(code_of(error))
    except KeyboardInterrupt:
        print(f"hedgerow {options.command}: interrupted", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
