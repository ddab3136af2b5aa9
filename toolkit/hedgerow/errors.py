"""Errors of the toolkit.

HedgerowError
└── UsageError    what the person asked for cannot be done; the message says what to do instead
"""


class HedgerowError(Exception):
    """Root of everything that this package raises on purpose."""


class UsageError(HedgerowError):
    """A wish that cannot be met as it was put."""
