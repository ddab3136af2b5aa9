"""Codec settings that move from round to round: coarse while the model learns much, fine at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping


def codec_config_at(config: Mapping[str, object], *, round: int, rounds: int) -> dict[str, object]:
    """Return a codec's configuration in a round.

    Parameters
    ----------
    config : Mapping[str, object]
        As in the plan: a setting is a value, or ``[first, last]``, two numbers above 0: the first one for
        the first 60 % of the rounds, the last one for the last 30 %; between them its logarithm moves
        along half a cosine. A model learns most in its first rounds, whatever is left out, and owes little
        at the end.
    round : int
        From 1; what is beyond the last round is as the last.
    rounds : int
        Number of rounds, from 1.

    Raises
    ------
    ValueError
        A list is anything else; the message starts with the setting's name.
    """
    done = min(round - 1, rounds - 1) / max(rounds - 1, 1)
    return {key: _value_at(key, value, done=done) for key, value in config.items()}


def _value_at(key: str, value: object, *, done: float) -> object:
    if not isinstance(value, (list, tuple)):
        return value
    ends = [float(end) for end in value if isinstance(end, (int, float)) and not isinstance(end, bool)]
    if len(value) != 2 or len(ends) != 2 or min(ends) <= 0:
        raise ValueError(f"{key} must be a value or two numbers above 0, [first round's, last round's]")
    first, last = ends
    share = min(max(10 * done - 6, 0), 1)
    # Both ends are met to the bit: a power would be off in its last place.
    if share in (0, 1):
        return last if share else first
    return first * (last / first) ** ((1 - math.cos(math.pi * share)) / 2)
