"""One line of a doctor's report."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found out about one thing.

    Attributes
    ----------
    name : str
        What was looked at, one word.
    ok : bool or None
        True: fine. False: will not work. None: works with a drawback, is not needed here, or cannot be told.
    detail : str
        What was found, one sentence or less.
    remedy : str
        What to do about it; empty when ``ok`` is True.
    """

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""
