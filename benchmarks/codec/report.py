"""What a run has measured so far: a JSON file that grows, from which a run that was cut off can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.codec.cases import Case

Rows = Sequence[Mapping[str, object]]


@dataclass(slots=True, kw_only=True)
class Report:
    """The report and its file, written after every piece of it.

    Parameters
    ----------
    path : Path or None
        Where to; None writes nothing.
    content : dict
        What is written. Under "finished" it names the pieces that need not be measured again.
    """

    path: Path | None
    content: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def open(path: Path | None, *, about: Mapping[str, object], resume: bool) -> Report:
        """Begin a report, or go on with the one in the file.

        Parameters
        ----------
        about : mapping
            What the numbers depend on. It is part of the report.

        Raises
        ------
        ValueError
            The file is no report, or one about something else.
        """
        if not resume or path is None or not path.is_file():
            return Report(path=path, content={**about, "finished": []})
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is no report to go on with ({error}): remove it") from error
        plain = json.loads(json.dumps(dict(about)))
        other = [name for name in plain if not isinstance(content, dict) or content.get(name) != plain[name]]
        if other or "finished" not in content:
            raise ValueError(f"{path} was measured with other {' and '.join(other) or 'code'}: remove it")
        return Report(path=path, content=content)

    def rows(self, section: str, cases: Sequence[Case], measure: Callable[[Case], Rows]) -> list[Any]:
        """Return the rows of a section, case by case, measuring what is not there yet."""
        found: list[Any] = self.content.setdefault(section, [])
        for case in cases:
            piece = f"{section} {case.name}"
            if piece not in self.content["finished"]:
                found += measure(case)
                self._finish(piece)
        return found

    def once(self, section: str, measure: Callable[[], object]) -> Any:
        """Return a section that is measured as a whole."""
        if section not in self.content["finished"]:
            self.content[section] = measure()
            self._finish(section)
        return self.content[section]

    def write(self) -> None:
        """Write the file; a reader never sees half of it."""
        if self.path is not None:
            part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
            part.write_text(json.dumps(self.content, indent=1) + "\n")
            part.replace(self.path)

    def _finish(self, piece: str) -> None:
        self.content["finished"].append(piece)
        self.write()
