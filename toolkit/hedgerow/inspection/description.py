"""What was found in a file, for a person and for a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hedgerow.quantities import bytes_text

MAX_ROWS = 40
_MAX_TEXT = 160
_DIGEST_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that was found: a name in lower_case, a JSON value, and how a person reads it.

    A name with a dot in it is quoted from the file (``pruning.end_round``).
    """

    name: str
    value: object
    text: str = ""

    def __post_init__(self) -> None:
        if not self.text:
            object.__setattr__(
                self, "text", f"{self.value:,}" if type(self.value) is int else str(self.value)
            )

    @property
    def label(self) -> str:
        """The name as a person reads it."""
        return self.name if "." in self.name else self.name.replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRow:
    """One tensor: `kind` is its role or dtype, `live` how many of its entries are not pruned, if known."""

    name: str
    shape: tuple[int, ...]
    kind: str
    size: int
    live: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a file is, what it holds, its tensors, and sentences about what cannot be seen."""

    what: str
    facts: tuple[Fact, ...] = ()
    tensors: tuple[TensorRow, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return all of it as JSON values: digests whole, no row left out."""
        return {
            "what": self.what,
            "facts": {fact.name: fact.value for fact in self.facts},
            "tensors": [
                {"name": t.name, "shape": list(t.shape), "kind": t.kind, "size": t.size, "live": t.live}
                for t in self.tensors
            ],
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """Return lines for a person; what the file itself says cannot steer the terminal."""
        labels = [_plain(fact.label) for fact in self.facts]
        width = max(map(len, labels), default=0)
        lines = [
            f"{label:<{width}}  {_plain(fact.text)}" for label, fact in zip(labels, self.facts, strict=True)
        ]
        parts = [_plain(self.what), *lines]
        if self.tensors:
            parts += ["", *_table(self.tensors[:MAX_ROWS])]
        if len(self.tensors) > MAX_ROWS:
            parts.append(f"... and {len(self.tensors) - MAX_ROWS} more tensors; --json lists all")
        if self.notes:
            parts += ["", *(_plain(note) for note in self.notes)]
        return "\n".join(parts)


def size_fact(num_bytes: int, *, name: str = "size") -> Fact:
    """Return a size in bytes."""
    exact = f"{num_bytes:,} bytes"
    return Fact(
        name=name, value=num_bytes, text=exact if num_bytes < 1000 else f"{bytes_text(num_bytes)} ({exact})"
    )


def digest_fact(name: str, digest: bytes) -> Fact:
    """Return a digest; a person sees its first digits, and "none" for zeros alone."""
    whole = digest.hex()
    if not any(digest):
        return Fact(name=name, value=whole, text="none")
    return Fact(
        name=name, value=whole, text=whole if len(whole) <= _DIGEST_DIGITS else f"{whole[:_DIGEST_DIGITS]}…"
    )


def density_fact(num_live: int, num_parameters: int) -> Fact:
    """Return the share of parameters that are live."""
    density = num_live / num_parameters if num_parameters else 1.0
    return Fact(
        name="density",
        value=density,
        text=f"{density:.4f}, {num_live:,} of {num_parameters:,} parameters live",
    )


def _table(tensors: Sequence[TensorRow]) -> list[str]:
    counted = any(tensor.live is not None for tensor in tensors)
    rows = [("tensor", "shape", "kind", "size", "live" if counted else "")]
    rows += [
        (
            _plain(tensor.name),
            "x".join(map(str, tensor.shape)) or "scalar",
            _plain(tensor.kind),
            f"{tensor.size:,}",
            "" if tensor.live is None or not tensor.size else f"{tensor.live / tensor.size:.1%}",
        )
        for tensor in tensors
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join(
            f"{cell:>{width}}" if column > 2 else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _plain(text: str) -> str:
    if not text.isprintable():
        text = text.encode("unicode_escape", "backslashreplace").decode("ascii")
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
