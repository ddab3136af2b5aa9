"""Other values in a plan's text, with its comments kept."""

import json
import re
from collections.abc import Mapping

Settings = Mapping[str, Mapping[str, object]]


def with_settings(text: str, settings: Settings) -> str:
    """Return a plan's text with other values, its comments kept.

    Parameters
    ----------
    text : str
        As `hedgerow_coordinator.plan_template.plan_template` writes it: a table once, a key on its line.
    settings : Mapping
        Values by table and key; a key that is not there is added, and so is a table.

    Examples
    --------
    >>> print(with_settings("[a]\\nx = 1  # why\\n[b]\\n", {"a": {"x": 2, "y": "z"}}), end="")
    [a]
    x = 2  # why
    y = "z"
    [b]
    """
    lines, table, written = text.splitlines(), "", dict[str, set[str]]()
    result: list[str] = []
    for line in [*lines, "[]"]:
        header = re.match(r"\s*\[([\w.]*)\]", line)
        if header:
            missing = _added(settings.get(table, {}), known=written.get(table, set()))
            # New keys come behind the last line with something in it, not behind the empty ones.
            end = len(result)
            while end and not result[end - 1].strip():
                end -= 1
            result[end:end] = missing
            table = header[1]
            written[table] = set()
        entry = re.match(r"(\w+) = ", line)
        if entry and entry[1] in settings.get(table, {}):
            written[table].add(entry[1])
            line = f"{entry[1]} = {_toml(settings[table][entry[1]])}{_comment(line)}"
        result.append(line)
    result.pop()
    for name in settings:
        if name not in written:
            result += ["", f"[{name}]", *_added(settings[name], known=set())]
    return "\n".join(result) + "\n"


def _added(values: Mapping[str, object], *, known: set[str]) -> list[str]:
    entries = [(key, value) for key, value in values.items() if key not in known]
    return [f"{key if key.isidentifier() else json.dumps(key)} = {_toml(value)}" for key, value in entries]


def _comment(line: str) -> str:
    """Return the comment of a line with the space before it; no value of the template holds a ``#``."""
    found = re.search(r"\s+#.*", line)
    return found[0] if found else ""


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}"
    # JSON's text, numbers and booleans are TOML's too.
    return json.dumps(value)
