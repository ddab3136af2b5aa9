"""Errors of this package.

DeviceError
└── LimitsError      a limit of the governor is out of its range (the user's plan is at fault)

Probes raise none of these: what cannot be read is ``None``, and what is wrong with a device is a `Check`.
"""


class DeviceError(Exception):
    """Root of the errors raised by ``hedgerow_devices``."""


class LimitsError(DeviceError, ValueError):
    """Raised when a limit has an impossible value; the sentence names the limit and the value."""
