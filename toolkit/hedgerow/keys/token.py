"""Join tokens: what a device is told, and what the gateway keeps of it.

A token is ``hgj1.`` and, in base64url, 6 bytes id, 16 bytes secret, 32 bytes SHA-256 of the authority's
certificate, and the CRC-32 of all of it. The gateway keeps the SHA-256 of the secret, not the secret, and
lets a token be used once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from hedgerow.errors import UsageError
from hedgerow_transport import CredentialsError, read_json, write_json

TOKEN_VERSION = 1
_PREFIX = "hgj1."
_ID_BYTES, _SECRET_BYTES, _FINGERPRINT_BYTES, _CRC_BYTES = 6, 16, 32, 4
_TOKEN_BYTES = _ID_BYTES + _SECRET_BYTES + _FINGERPRINT_BYTES + _CRC_BYTES
# A token that has run out is kept for so long, so that its user can be told so.
KEPT_S = 7 * 86_400


class TokenRefused(UsageError):
    """A token that may not be used; one sentence for whoever sent it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as the device has it.

    Parameters
    ----------
    identifier : str
        12 hex digits.
    secret : bytes
        16 bytes.
    fingerprint : bytes
        SHA-256 of the authority's certificate, 32 bytes.
    """

    identifier: str
    secret: bytes = field(repr=False)
    fingerprint: bytes

    @classmethod
    def new(cls, *, fingerprint: bytes) -> Self:
        """Make a token."""
        return cls(
            identifier=secrets.token_hex(_ID_BYTES),
            secret=secrets.token_bytes(_SECRET_BYTES),
            fingerprint=fingerprint,
        )

    @property
    def text(self) -> str:
        """The token as it is told."""
        body = bytes.fromhex(self.identifier) + self.secret + self.fingerprint
        whole = body + zlib.crc32(body).to_bytes(_CRC_BYTES, "big")
        return _PREFIX + base64.urlsafe_b64encode(whole).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a token.

        Raises
        ------
        hedgerow.errors.UsageError
            When it is none, or not all of it; the sentence does not repeat it.
        """
        text = text.strip()
        if not text.startswith(_PREFIX):
            raise UsageError(f"this is no join token: one begins with {_PREFIX}")
        encoded = text.removeprefix(_PREFIX)
        try:
            whole = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except ValueError:
            whole = b""
        body, crc = whole[:-_CRC_BYTES], whole[-_CRC_BYTES:]
        if len(whole) != _TOKEN_BYTES or zlib.crc32(body).to_bytes(_CRC_BYTES, "big") != crc:
            raise UsageError("the join token is damaged or cut off: copy all of it")
        return cls(
            identifier=body[:_ID_BYTES].hex(),
            secret=body[_ID_BYTES : _ID_BYTES + _SECRET_BYTES],
            fingerprint=body[_ID_BYTES + _SECRET_BYTES :],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """A token as the gateway keeps it: for whom, until when, and whether it was used (Unix times)."""

    version: int = TOKEN_VERSION
    name: str
    digest: str
    expires: int
    credential_days: int
    replaces: bool = False
    used: int = 0


class TokenBook:
    """The gateway's tokens, one file each. Its caller holds the lock of the authority.

    Parameters
    ----------
    directory : Path
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, token: Token, *, name: str, expires: int, credential_days: int, replaces: bool) -> None:
        """Keep a new token."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        record = TokenRecord(
            name=name,
            digest=_digest(token.secret),
            expires=expires,
            credential_days=credential_days,
            replaces=replaces,
        )
        write_json(self._path(token.identifier), asdict(record))

    def check(self, identifier: str, secret: bytes, *, now: float) -> TokenRecord:
        """Return the record of a token that may be used.

        Raises
        ------
        TokenRefused
            One sentence: not known, used, or run out. Whoever does not know the secret learns nothing more.
        """
        record = self._read(identifier) if re.fullmatch(r"[0-9a-f]{12}", identifier) else None
        if record is None or not hmac.compare_digest(record.digest, _digest(secret)):
            raise TokenRefused("this token is not known here: was it made by this gateway?")
        if record.used:
            raise TokenRefused("this token was used before: each is good for one device, ask for a new one")
        if now > record.expires:
            raise TokenRefused("this token has run out: ask for a new one")
        return record

    def use_up(self, identifier: str, record: TokenRecord, *, now: float) -> None:
        """Note that a token was used."""
        write_json(self._path(identifier), asdict(replace(record, used=int(now))))

    def open_tokens(self, *, now: float) -> list[TokenRecord]:
        """Return the tokens that may still be used, and forget those that ran out long ago."""
        records = []
        for path in sorted(self._directory.glob("*.json")):
            record = self._read(path.stem)
            if record is not None and now > record.expires + KEPT_S:
                path.unlink(missing_ok=True)
            elif record is not None and not record.used and now <= record.expires:
                records.append(record)
        return records

    def _read(self, identifier: str) -> TokenRecord | None:
        path = self._path(identifier)
        if not path.exists():
            return None
        try:
            return TokenRecord(**read_json(path))
        except TypeError as error:
            raise CredentialsError(f"{path} is damaged") from error

    def _path(self, identifier: str) -> Path:
        return self._directory / f"{identifier}.json"


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
