"""Ed25519 keys (RFC 8032), from the package `cryptography`, which is loaded only where keys are used."""

from __future__ import annotations

from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from hedgerow_transport.errors import CredentialsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
MISSING = "keys and signatures need one more package: pip install 'hedgerow[secure]'"


class SigningKey:
    """A private Ed25519 key.

    >>> key = SigningKey.generate()
    >>> verifies(key.public, signature=key.sign(b"hello"), data=b"hello")
    True
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """Make a new key.

        Raises
        ------
        CredentialsError
            When `cryptography` is not installed.
        """
        need_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """Read a key (PKCS #8, PEM).

        Raises
        ------
        CredentialsError
            When it is none, or `cryptography` is not installed.
        """
        need_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CredentialsError("is no private key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise CredentialsError("is a private key, but not one of Ed25519")
        return cls(private)

    def to_pem(self) -> bytes:
        """Return the key in PKCS #8, PEM, not encrypted."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._private.sign(data)

    def derive(self, purpose: bytes, *, num_bytes: int) -> bytes:
        """Return bytes that nobody without the key can tell, the same each time for a purpose."""
        return blake2b(purpose, key=self._private.private_bytes_raw(), digest_size=num_bytes).digest()


def verifies(public: bytes, *, signature: bytes, data: bytes) -> bool:
    """Say whether a signature over data was made with the private key of a public one.

    Raises
    ------
    CredentialsError
        When the public key is none, or `cryptography` is not installed.
    """
    key = _public_key(public)
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def check_public_key(public: bytes) -> bytes:
    """Return a public key unchanged; `CredentialsError` when it is none."""
    _public_key(public)
    return public


def need_cryptography() -> None:
    """Raise `CredentialsError`, which says what to install, when `cryptography` is not there."""
    if find_spec("cryptography") is None:
        raise CredentialsError(MISSING)


def _public_key(public: bytes) -> Ed25519PublicKey:
    need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        return Ed25519PublicKey.from_public_bytes(public)
    except ValueError as error:
        raise CredentialsError(f"{public.hex()[:80]!r} is no public key of Ed25519") from error
