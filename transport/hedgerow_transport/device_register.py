"""The devices that a coordinator knows: their public keys, until when, and which are revoked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hedgerow_transport.credentials import read_json, write_json
from hedgerow_transport.errors import CredentialsError
from hedgerow_transport.signing import PUBLIC_KEY_BYTES
from hedgerow_transport.topics import NAME_PATTERN

REGISTER_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device with credentials.

    Parameters
    ----------
    signing_key : bytes
        Its public key.
    serial : int
        Of its certificate.
    expires : int
        Unix time.
    revoked : int
        Unix time at which it was revoked; 0 when it was not.
    """

    signing_key: bytes
    serial: int
    expires: int
    revoked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """All devices by name, and the serial numbers of all revoked certificates, with the time."""

    by_name: Mapping[str, Device] = field(default_factory=dict)
    revoked_serials: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Devices:
        """Read a register.

        Raises
        ------
        CredentialsError
            When it is missing or damaged.
        """
        content = read_json(path)
        try:
            if content["version"] != REGISTER_VERSION:
                raise ValueError
            return cls(
                by_name={_name(name): _device(entry) for name, entry in content["devices"].items()},
                revoked_serials={int(serial): int(at) for serial, at in content["revoked_serials"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CredentialsError(f"{path} is damaged, or of another version of Hedgerow") from error

    def write(self, path: Path) -> None:
        """Replace a register, durably."""
        # Serial numbers have 160 bits, more than many readers of JSON can hold.
        devices = {
            name: {
                "signing_key": device.signing_key.hex(),
                "serial": str(device.serial),
                "expires": device.expires,
                "revoked": device.revoked,
            }
            for name, device in self.by_name.items()
        }
        serials = {str(serial): at for serial, at in self.revoked_serials.items()}
        write_json(path, {"version": REGISTER_VERSION, "devices": devices, "revoked_serials": serials})


class DeviceRegister:
    """A register that is read again when its file has changed: `hedgerow keys` works on it meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._devices = Devices.read(path)

    def find(self, name: str) -> Device | None:
        """Return a device, or None.

        Raises
        ------
        CredentialsError
            When the file has become unreadable.
        """
        stamp = self._stamp()
        if stamp != self._seen:
            self._devices = Devices.read(self._path)
            self._seen = stamp
        return self._devices.by_name.get(name)

    def _stamp(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise CredentialsError(f"cannot read {self._path}: {error.strerror}") from error
        # The inode changes too: a register is replaced, never written over.
        return found.st_ino, found.st_mtime_ns, found.st_size


def _name(name: str) -> str:
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise ValueError
    return name


def _device(entry: dict[str, Any]) -> Device:
    key = bytes.fromhex(entry["signing_key"])
    if len(key) != PUBLIC_KEY_BYTES:
        raise ValueError
    return Device(
        signing_key=key,
        serial=int(entry["serial"]),
        expires=int(entry["expires"]),
        revoked=int(entry["revoked"]),
    )
