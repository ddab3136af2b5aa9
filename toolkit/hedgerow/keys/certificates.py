"""X.509 certificates of a federation's own authority: pure functions from keys to certificates.

All begin in 2020: a Raspberry Pi has no clock of its own, and comes up in the past after a power cut. TLS
would refuse a certificate that begins in its future.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hedgerow.errors import UsageError

BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)
_HASH = SHA256()
# P-256: every TLS library and every broker knows it.
_CURVE = ec.SECP256R1()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """The authority: its certificate and private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def expires(self) -> int:
        """Unix time of its end; nothing that it signs outlives it."""
        return int(self.certificate.not_valid_after_utc.timestamp())


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a private key for TLS."""
    return ec.generate_private_key(_CURVE)


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PKCS #8, PEM, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_from_pem(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a private key; ValueError when it is none of ours."""
    key = load_pem_private_key(data, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is not one of an elliptic curve")
    return key


def to_pem(
    signed: x509.Certificate | x509.CertificateSigningRequest | x509.CertificateRevocationList,
) -> bytes:
    """Return a certificate, a request or a revocation list in PEM."""
    return signed.public_bytes(Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> bytes:
    """Return the SHA-256 of a certificate, 32 bytes."""
    return certificate.fingerprint(_HASH)


def public_bytes(key: object) -> bytes:
    """Return a public key in DER, to compare it with another."""
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def new_authority(*, name: str, expires: int) -> Issuer:
    """Make an authority with a certificate that it has signed itself."""
    key = new_key()
    subject = _name(name)
    builder = (
        _builder(subject, issuer=subject, public=key.public_key(), expires=expires)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Issuer(certificate=builder.sign(key, _HASH), key=key)


def issue(
    issuer: Issuer,
    *,
    name: str,
    public: ec.EllipticCurvePublicKey,
    expires: int,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    """Sign a certificate: with `hosts` a server's, for these names and addresses; without, a client's."""
    server = bool(hosts)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    ca = issuer.certificate
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(name), issuer=ca.subject, public=public, expires=min(expires, issuer.expires))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    )
    if server:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(_host, hosts)), critical=False)
    return builder.sign(issuer.key, _HASH)


def revocation_list(issuer: Issuer, revoked: Mapping[int, int]) -> x509.CertificateRevocationList:
    """Return the list of revoked serial numbers, each with its Unix time.

    It holds until the authority's end: one that has run out would shut everybody out.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(BEGINNING)
        .next_update(_moment(issuer.expires))
    )
    for serial, at in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_moment(at))
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, _HASH)


def listed_serials(data: bytes) -> set[int]:
    """Return the serial numbers in a revocation list (PEM)."""
    return {entry.serial_number for entry in x509.load_pem_x509_crl(data)}


def request_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a request (PEM) for a certificate; whoever signs it decides on the name."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name("device"))
    return to_pem(builder.sign(key, _HASH))


def read_request(data: bytes) -> x509.CertificateSigningRequest:
    """Read a request of a key of ours, whose signature proves that its sender has the private key.

    Raises
    ------
    ValueError
        Otherwise.
    """
    request = x509.load_pem_x509_csr(data)
    public = request.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != _CURVE.name:
        raise ValueError("the request is not for a key on the curve P-256")
    if not request.is_signature_valid:
        raise ValueError("the request is not signed by its key")
    return request


def check_issued(certificate: x509.Certificate, *, by: x509.Certificate) -> None:
    """Raise ValueError unless a certificate was signed by an authority."""
    try:
        certificate.verify_directly_issued_by(by)
    except (InvalidSignature, TypeError, ValueError) as error:
        raise ValueError("the certificate was not signed by the authority") from error


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name; ValueError when there is not exactly one."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise ValueError("the certificate has no common name")
    return names[0].value


def check_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return names and addresses for a server's certificate, each once.

    Raises
    ------
    hedgerow.errors.UsageError
        When one cannot be a host.
    """
    checked = tuple(dict.fromkeys(host.strip().strip("[]").lower() for host in hosts if host.strip()))
    if not checked:
        raise UsageError("name at least one host under which the broker is reached")
    for host in checked:
        try:
            _host(host)
        except ValueError:
            raise UsageError(f"{host!r} is neither a host's name nor an address") from None
        if len(host) > 64 or any(
            not (char.isascii() and (char.isalnum() or char in "-.:_")) for char in host
        ):
            raise UsageError(f"{host!r} is neither a host's name nor an address")
    return checked


def _builder(
    subject: x509.Name, *, issuer: x509.Name, public: ec.EllipticCurvePublicKey, expires: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGINNING)
        .not_valid_after(_moment(expires))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _moment(unix_time: int) -> datetime:
    return datetime.fromtimestamp(unix_time, tz=UTC)
