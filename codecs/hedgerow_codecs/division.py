"""Whole numbers divided in proportion, in integer arithmetic: the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def divide(
    total: int, *, shares: Sequence[int], least: Sequence[int], most: Sequence[int]
) -> tuple[int, ...]:
    """Divide `total` in proportion to `shares`, within bounds, by the method of largest remainders.

    Parameters
    ----------
    total : int
        From ``sum(least)`` to ``sum(most)`` inclusive.
    shares : sequence of int
        Positive.
    least, most : sequence of int
        Bounds of each part, both inclusive.

    Returns
    -------
    tuple[int, ...]
        They add up to `total`. Equal remainders go to the lower index.

    Examples
    --------
    >>> divide(10, shares=[1, 1, 6], least=[0, 2, 0], most=[9, 9, 5])
    (3, 2, 5)
    """
    parts: list[tuple[int, int, int]] = list(zip(shares, least, most, strict=True))
    # sum(clip(level * share)) rises with the level and bends only where a part reaches a bound.
    bends = sorted({Fraction(bound, share) for share, low, high in parts for bound in (low, high)})
    below, above = 0, len(bends)
    while above - below > 1:
        middle = (below + above) // 2
        level = bends[middle]
        clipped = (min(max(level * share, Fraction(low)), Fraction(high)) for share, low, high in parts)
        filled = sum(clipped, Fraction(0))
        below, above = (middle, above) if filled <= total else (below, middle)
    level = bends[below] if bends else Fraction(0)
    inside = [index for index, (share, low, high) in enumerate(parts) if low <= level * share < high]
    counts = [high if level * share >= high else low for share, low, high in parts]
    rest = total - sum(counts) + sum(counts[index] for index in inside)
    weight = sum(shares[index] for index in inside)
    for index in inside:
        counts[index] = rest * shares[index] // weight
    by_remainder = sorted(inside, key=lambda index: -(rest * shares[index] % weight))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return tuple(counts)
