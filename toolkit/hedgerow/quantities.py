"""Numbers as a person reads them."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB")


def bytes_unit(num_bytes: float) -> tuple[float, str]:
    """Return the largest decimal unit (1 kB is 1000 B) that is not larger than `num_bytes`, and its name.

    >>> bytes_unit(1_234_567)
    (1000000.0, 'MB')
    """
    size, exponent = 1.0, 0
    while abs(num_bytes) >= 1000 * size and exponent < len(_UNITS) - 1:
        size, exponent = 1000 * size, exponent + 1
    return size, _UNITS[exponent]


def bytes_text(num_bytes: int) -> str:
    """Return a number of bytes with three digits and a unit.

    >>> bytes_text(999), bytes_text(1234), bytes_text(56_780_000), bytes_text(999_999)
    ('999 B', '1.23 kB', '56.8 MB', '1.00 MB')
    """
    size, unit = bytes_unit(num_bytes)
    if unit == "B":
        return f"{num_bytes} B"
    if f"{abs(num_bytes) / size:.0f}" == "1000" and unit != _UNITS[-1]:
        # Rounding to three digits has carried it over to the next unit.
        size, unit = size * 1000, _UNITS[_UNITS.index(unit) + 1]
    value = num_bytes / size
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{digits}f} {unit}"


def seconds_text(seconds: float) -> str:
    """Return a duration.

    >>> seconds_text(0.25), seconds_text(75), seconds_text(7384)
    ('0.2 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def ratio_text(part: float, whole: float) -> str:
    """Return how many times smaller `part` is.

    >>> ratio_text(10, 125), ratio_text(100, 80), ratio_text(0, 5)
    ('12.5 times less', '1.2 times more', 'nothing was sent')
    """
    if part <= 0:
        return "nothing was sent"
    factor, word = (whole / part, "less") if whole >= part else (part / whole if whole else 0.0, "more")
    if not factor:
        return "more than nothing"
    return f"{factor:,.0f} times {word}" if factor >= 99.95 else f"{factor:.1f} times {word}"
