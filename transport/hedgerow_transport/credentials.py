"""A folder of credentials: who we are, and how we prove it.

::

    credentials.json   name, role, public key of the coordinator, Unix times of making and of the end
    ca.pem             the authority's certificate
    cert.pem key.pem   our certificate and its private key, for TLS
    signing.pem        our Ed25519 key, for messages
    devices.json       the coordinator's: public keys of the devices, see `DeviceRegister`
    counter.json       how far we have counted our messages
    seen-NAMESPACE.json  how far others have counted theirs
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hedgerow_transport.durable_file import write_durably
from hedgerow_transport.errors import CredentialsError
from hedgerow_transport.signing import PUBLIC_KEY_BYTES, SigningKey, check_public_key

CREDENTIALS_VERSION = 1
CREDENTIALS_NAME, DEVICES_NAME, COUNTER_NAME = "credentials.json", "devices.json", "counter.json"
CA_NAME, CERT_NAME, KEY_NAME, SIGNING_NAME = "ca.pem", "cert.pem", "key.pem", "signing.pem"
MAX_FILE_BYTES = 1 << 16
PRIVATE_MODE, PUBLIC_MODE = 0o600, 0o644
Role = Literal["device", "coordinator"]
_ROLES: tuple[Role, ...] = ("device", "coordinator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who a device or a coordinator is.

    Parameters
    ----------
    directory : Path
        The folder.
    role : str
        ``"device"`` or ``"coordinator"``.
    name : str
        The common name of the certificate; a device's name.
    signing_key : SigningKey
        Signs our messages.
    coordinator_key : bytes
        The public key of the coordinator.
    made : int
        Unix time at which they were made, by the gateway's clock.
    expires : int
        Unix time after which the certificate is worth nothing.
    """

    directory: Path
    role: Role
    name: str
    signing_key: SigningKey = field(repr=False)
    coordinator_key: bytes
    made: int
    expires: int

    @property
    def cafile(self) -> Path:
        """The authority's certificate."""
        return self.directory / CA_NAME

    @property
    def certfile(self) -> Path:
        """Our certificate."""
        return self.directory / CERT_NAME

    @property
    def register(self) -> Path:
        """The devices that a coordinator knows."""
        return self.directory / DEVICES_NAME

    @property
    def keyfile(self) -> Path:
        """Its private key."""
        return self.directory / KEY_NAME

    @classmethod
    def load(cls, directory: Path, *, role: Role | None = None) -> Credentials:
        """Read a folder.

        Parameters
        ----------
        directory : Path
        role : str, optional
            The role that it must be for.

        Raises
        ------
        CredentialsError
            When a file is missing, damaged or readable by others, the role is another one, or `cryptography`
            is not installed.
        """
        if not (directory / CREDENTIALS_NAME).is_file():
            raise CredentialsError(
                f"there are no credentials in {directory}: `hedgerow keys join` makes those of a device, "
                "`hedgerow keys init` those of a coordinator"
            )
        facts = read_json(directory / CREDENTIALS_NAME)
        found, name = facts.get("role"), facts.get("name")
        made, expires, public = facts.get("made"), facts.get("expires"), _hex(facts.get("coordinator_key"))
        if (
            facts.get("version") != CREDENTIALS_VERSION
            or found not in _ROLES
            or not isinstance(name, str)
            or not isinstance(made, int)
            or not isinstance(expires, int)
            or public is None
        ):
            raise CredentialsError(
                f"{directory / CREDENTIALS_NAME} is damaged, or of another version of Hedgerow"
            )
        if role is not None and found != role:
            wanted = "keys/coordinator" if role == "coordinator" else "what `hedgerow keys join` has written"
            raise CredentialsError(
                f"the credentials in {directory} are for a {found}, not a {role}: use {wanted}"
            )
        for secret in (KEY_NAME, SIGNING_NAME):
            _check_private(directory / secret)
        for needed in (CA_NAME, CERT_NAME):
            _read(directory / needed)
        path = directory / SIGNING_NAME
        try:
            signing_key = SigningKey.from_pem(_read(path))
        except CredentialsError as error:
            raise CredentialsError(
                f"{path} {error}" if str(error).startswith("is ") else str(error)
            ) from error
        if found == "coordinator" and signing_key.public != public:
            raise CredentialsError(f"{path} is not the key that {directory / CREDENTIALS_NAME} names")
        return cls(
            directory=directory,
            role=found,
            name=name,
            signing_key=signing_key,
            coordinator_key=check_public_key(public),
            made=made,
            expires=expires,
        )


def write_credentials(
    directory: Path,
    *,
    role: Role,
    name: str,
    authority: bytes,
    certificate: bytes,
    key: bytes,
    signing_key: SigningKey,
    coordinator_key: bytes,
    made: int,
    expires: int,
) -> None:
    """Write a new folder of credentials; ``credentials.json`` comes last, so that half a folder is none.

    Raises
    ------
    FileExistsError
        When one of the private keys is there already.
    OSError
        When it cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_new(directory / KEY_NAME, key, mode=PRIVATE_MODE)
    write_new(directory / SIGNING_NAME, signing_key.to_pem(), mode=PRIVATE_MODE)
    write_durably(directory / CA_NAME, authority)
    write_durably(directory / CERT_NAME, certificate)
    facts = {
        "version": CREDENTIALS_VERSION,
        "role": role,
        "name": name,
        "coordinator_key": coordinator_key.hex(),
        "made": made,
        "expires": expires,
    }
    write_json(directory / CREDENTIALS_NAME, facts)


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that is not there yet, readable from the first moment on for whom it shall be.

    Raises
    ------
    FileExistsError
        When it is there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def write_json(path: Path, content: object) -> None:
    """Replace a file by JSON, durably."""
    write_durably(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; `CredentialsError` when it is none or cannot be read."""
    try:
        content = json.loads(_read(path, most=1 << 24))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CredentialsError):
            raise
        raise CredentialsError(f"{path} is damaged: it is no JSON") from error
    if not isinstance(content, dict):
        raise CredentialsError(f"{path} is damaged: it is no JSON object")
    return content


def _hex(text: object) -> bytes | None:
    try:
        key = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return None
    return key if len(key) == PUBLIC_KEY_BYTES else None


def _check_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CredentialsError(f"cannot read {path}: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise CredentialsError(f"the private key {path} can be read by others: chmod 600 {path}")


def _read(path: Path, *, most: int = MAX_FILE_BYTES) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise CredentialsError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > most:
        raise CredentialsError(f"{path} is damaged: it has more than {most} bytes")
    return data
