"""List what can stand in [pruning]: policies, scores, budgets, schedules, and recipes of published methods.

A recipe is a plan of a few lines: `hedgerow init TASK --recipe NAME` writes it. docs/pruning.md explains
all keys.
"""

from __future__ import annotations

import argparse
import json

from hedgerow.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the lists."""
    from hedgerow.policy_lists import policy_lists

    lists = policy_lists()
    if options.json:
        print(json.dumps(lists, indent=2, ensure_ascii=False))
        return ExitCode.DONE
    for title, entries in lists.items():
        print(f"{title}:")
        width = max(len(name) for name in entries)
        for name, facts in entries.items():
            rest = [f"({facts['source']})"] if facts.get("source") else []
            rest += [f"traffic: {facts['traffic']}"] if facts.get("traffic") else []
            print(f"  {name:<{width}}  {facts['meaning']}" + "".join(f"  {part}" for part in rest))
        print()
    return ExitCode.DONE
