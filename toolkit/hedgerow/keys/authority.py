"""The authority of a federation, in a folder on the gateway.

::

    authority/     ca.pem key.pem        signs certificates; keep key.pem to yourself
    broker/        ca.pem cert.pem key.pem crl.pem hosts.json
    coordinator/   credentials, with the register of devices
    devices/NAME/  credentials that were made here, to be copied to the device
    tokens/        join tokens
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509

from hedgerow.errors import UsageError
from hedgerow.keys.certificates import (
    Issuer,
    check_hosts,
    fingerprint,
    issue,
    key_from_pem,
    key_to_pem,
    listed_serials,
    new_authority,
    new_key,
    revocation_list,
    to_pem,
)
from hedgerow.keys.token import Token, TokenBook, TokenRefused
from hedgerow_transport import (
    CA_NAME,
    CERT_NAME,
    COORDINATOR_IDENTITY,
    DEVICES_NAME,
    KEY_NAME,
    Credentials,
    CredentialsError,
    Device,
    Devices,
    SigningKey,
    check_name,
    read_json,
    write_credentials,
    write_durably,
    write_json,
    write_new,
)

CRL_NAME, HOSTS_NAME = "crl.pem", "hosts.json"
DAY_S = 86_400
# A clock before this was never set; certificates would run out at once.
EARLIEST_NOW = 1_767_225_600
MAX_DAYS = 36_500


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What a device gets that has made its keys itself; all but the certificate is known to all devices."""

    name: str
    certificate: bytes
    authority: bytes
    coordinator_key: bytes
    expires: int


class Authority:
    """The authority in a folder; made by `create` or `open`.

    Parameters
    ----------
    directory : Path
    issuer : Issuer
    """

    def __init__(self, directory: Path, issuer: Issuer) -> None:
        self.directory = directory
        self._issuer = issuer
        self._tokens = TokenBook(directory / "tokens")

    # -- beginnings -----------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, directory: Path, *, hosts: Sequence[str], authority_days: int, days: int, now: float
    ) -> Authority:
        """Make an authority, the broker's certificate and the coordinator's credentials.

        Raises
        ------
        hedgerow.errors.UsageError
            When the folder is not empty, a host or a period cannot be used, or the clock was never set.
        """
        checked = check_hosts(hosts)
        authority_expires, expires = _end(now, days=authority_days), _end(now, days=days)
        if directory.exists() and any(directory.iterdir()):
            raise UsageError(f"{directory} is not empty: keys are never overwritten, name another folder")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        issuer = new_authority(name="Hedgerow authority", expires=authority_expires)
        authority = cls(directory, issuer)
        folder = directory / "authority"
        folder.mkdir(mode=0o700)
        write_new(folder / KEY_NAME, key_to_pem(issuer.key), mode=0o600)
        authority._certify_broker(checked, expires=expires)
        signing_key, key = SigningKey.generate(), new_key()
        certificate = issue(issuer, name=COORDINATOR_IDENTITY, public=key.public_key(), expires=expires)
        (directory / "coordinator").mkdir(mode=0o700)
        Devices().write(authority.register_path)
        write_credentials(
            directory / "coordinator",
            role="coordinator",
            name=COORDINATOR_IDENTITY,
            authority=to_pem(issuer.certificate),
            certificate=to_pem(certificate),
            key=key_to_pem(key),
            signing_key=signing_key,
            coordinator_key=signing_key.public,
            made=int(now),
            expires=_expiry(certificate),
        )
        authority._write_revocations(Devices())
        # Last, so that half an authority is none.
        write_durably(folder / CA_NAME, to_pem(issuer.certificate))
        return authority

    @classmethod
    def open(cls, directory: Path) -> Authority:
        """Open an authority.

        Raises
        ------
        hedgerow.errors.UsageError
            When there is none.
        hedgerow_transport.CredentialsError
            When its files cannot be read.
        """
        folder = directory / "authority"
        if not (folder / CA_NAME).is_file():
            raise UsageError(f"there are no keys in {directory}: `hedgerow keys init {directory}` makes them")
        try:
            certificate = x509.load_pem_x509_certificate((folder / CA_NAME).read_bytes())
            key = key_from_pem((folder / KEY_NAME).read_bytes())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "damaged"
            raise CredentialsError(f"the authority in {folder} cannot be used: {reason}") from error
        return cls(directory, Issuer(certificate=certificate, key=key))

    # -- what is there --------------------------------------------------------------------------------

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self._issuer.certificate

    @property
    def register_path(self) -> Path:
        """The coordinator's register of devices."""
        return self.directory / "coordinator" / DEVICES_NAME

    @property
    def broker_files(self) -> tuple[Path, Path]:
        """Certificate and private key of the broker."""
        return self.directory / "broker" / CERT_NAME, self.directory / "broker" / KEY_NAME

    def devices(self) -> Devices:
        """Return the register of devices."""
        return Devices.read(self.register_path)

    def ends(self) -> dict[str, int]:
        """Return when (Unix time) the certificates of authority, broker and coordinator end."""
        return {
            "authority": self._issuer.expires,
            "broker": int(read_json(self.directory / "broker" / HOSTS_NAME)["expires"]),
            "coordinator": Credentials.load(self.directory / "coordinator").expires,
        }

    def open_tokens(self) -> list[tuple[str, int]]:
        """Return name and end (Unix time) of the tokens that may still be used."""
        with self._lock():
            return [(record.name, record.expires) for record in self._tokens.open_tokens(now=time.time())]

    # -- devices --------------------------------------------------------------------------------------

    def add_device(self, name: str, *, days: int, replaces: bool, now: float) -> Path:
        """Make all credentials of a device here; return their folder.

        Raises
        ------
        hedgerow.errors.UsageError
            When the device has credentials and `replaces` is not set.
        """
        check_name(name, what="the device's name")
        folder = self.directory / "devices" / name
        with self._lock():
            devices = self._check_free(name, replaces=replaces, now=now)
            if folder.exists():
                folder.rename(folder.with_name(f"{name}.before-{int(now)}"))
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            key, signing_key = new_key(), SigningKey.generate()
            certificate = issue(
                self._issuer, name=name, public=key.public_key(), expires=_end(now, days=days)
            )
            write_credentials(
                folder,
                role="device",
                name=name,
                authority=to_pem(self.certificate),
                certificate=to_pem(certificate),
                key=key_to_pem(key),
                signing_key=signing_key,
                coordinator_key=self._coordinator_key(),
                made=int(now),
                expires=_expiry(certificate),
            )
            self._enter(devices, name, certificate=certificate, signing_key=signing_key.public, now=now)
        return folder

    def new_token(
        self, name: str, *, hours: float, credential_days: int, replaces: bool, now: float
    ) -> Token:
        """Make a token with which a device of that name gets its credentials.

        Raises
        ------
        hedgerow.errors.UsageError
            As `add_device`.
        """
        check_name(name, what="the device's name")
        if not 0 < hours <= 24 * 365:
            raise UsageError(f"--hours must be more than 0 and at most {24 * 365}, not {hours:g}")
        _end(now, days=credential_days)
        token = Token.new(fingerprint=fingerprint(self.certificate))
        with self._lock():
            self._check_free(name, replaces=replaces, now=now)
            self._tokens.open_tokens(now=now)
            self._tokens.add(
                token,
                name=name,
                expires=int(now + hours * 3600),
                credential_days=credential_days,
                replaces=replaces,
            )
        return token

    def enrol(
        self,
        identifier: str,
        secret: bytes,
        *,
        request: x509.CertificateSigningRequest,
        signing_key: bytes,
        now: float,
    ) -> Issued:
        """Give a device its certificate for a token, which is used up.

        Parameters
        ----------
        identifier, secret
            Of the token.
        request
            The checked request.
        signing_key
            The device's public key for messages; its sender has shown that it has the private one.

        Raises
        ------
        TokenRefused
            One sentence for the device: the token may not be used.
        """
        with self._lock():
            record = self._tokens.check(identifier, secret, now=now)
            try:
                devices = self._check_free(record.name, replaces=record.replaces, now=now)
            except UsageError as error:
                raise TokenRefused(
                    f"'{record.name}' has credentials already; ask for another token"
                ) from error
            # First of all, so that it is used up whatever happens.
            self._tokens.use_up(identifier, record, now=now)
            public = request.public_key()
            certificate = issue(
                self._issuer,
                name=record.name,
                public=public,  # type: ignore[arg-type]  # read_request has checked its kind
                expires=_end(now, days=record.credential_days),
            )
            self._enter(devices, record.name, certificate=certificate, signing_key=signing_key, now=now)
        return Issued(
            name=record.name,
            certificate=to_pem(certificate),
            authority=to_pem(self.certificate),
            coordinator_key=self._coordinator_key(),
            expires=_expiry(certificate),
        )

    def revoke(self, name: str, *, now: float) -> None:
        """Take a device's credentials back.

        Raises
        ------
        hedgerow.errors.UsageError
            When there is no such device, or it is revoked already.
        """
        with self._lock():
            devices = self.devices()
            device = devices.by_name.get(name)
            if device is None:
                known = ", ".join(sorted(devices.by_name)) or "none"
                raise UsageError(f"no device '{name}' has credentials here; there are: {known}")
            if device.revoked:
                raise UsageError(f"'{name}' was revoked on {day(device.revoked)} already")
            self._write_devices(_revoked(devices, name, now=now))

    def renew(self, *, hosts: Sequence[str], days: int, now: float) -> tuple[str, ...]:
        """Make new certificates for broker and coordinator; return the broker's hosts.

        Parameters
        ----------
        hosts
            Of the broker; empty leaves them as they are.
        """
        with self._lock():
            checked = check_hosts(hosts) if hosts else broker_hosts(self.directory)
            expires = _end(now, days=days)
            self._certify_broker(checked, expires=expires)
            folder = self.directory / "coordinator"
            key = key_from_pem((folder / KEY_NAME).read_bytes())
            certificate = issue(
                self._issuer, name=COORDINATOR_IDENTITY, public=key.public_key(), expires=expires
            )
            write_durably(folder / CERT_NAME, to_pem(certificate))
            facts = read_json(folder / "credentials.json")
            write_json(folder / "credentials.json", {**facts, "expires": _expiry(certificate)})
        return checked

    # -- parts ----------------------------------------------------------------------------------------

    def _check_free(self, name: str, *, replaces: bool, now: float) -> Devices:
        devices = self.devices()
        device = devices.by_name.get(name)
        if device is not None and not device.revoked and device.expires > now and not replaces:
            raise UsageError(
                f"'{name}' has credentials already, until {day(device.expires)}: --replace takes those back"
            )
        return devices

    def _enter(
        self, devices: Devices, name: str, *, certificate: x509.Certificate, signing_key: bytes, now: float
    ) -> None:
        before = devices.by_name.get(name)
        if before is not None and not before.revoked:
            devices = _revoked(devices, name, now=now)
        device = Device(
            signing_key=signing_key, serial=certificate.serial_number, expires=_expiry(certificate)
        )
        self._write_devices(replace(devices, by_name={**devices.by_name, name: device}))

    def _write_devices(self, devices: Devices) -> None:
        # The broker first: what it lets through is still judged by the coordinator.
        self._write_revocations(devices)
        devices.write(self.register_path)

    def _write_revocations(self, devices: Devices) -> None:
        path = self.directory / "broker" / CRL_NAME
        # A new list makes `hedgerow broker run` start Mosquitto anew.
        if not path.exists() or listed_serials(path.read_bytes()) != set(devices.revoked_serials):
            write_durably(path, to_pem(revocation_list(self._issuer, devices.revoked_serials)))

    def _certify_broker(self, hosts: tuple[str, ...], *, expires: int) -> None:
        folder = self.directory / "broker"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / KEY_NAME
        if not path.exists():
            write_new(path, key_to_pem(new_key()), mode=0o600)
        public = key_from_pem(path.read_bytes()).public_key()
        certificate = issue(self._issuer, name=hosts[0], public=public, expires=expires, hosts=hosts)
        write_durably(folder / CA_NAME, to_pem(self.certificate))
        write_durably(folder / CERT_NAME, to_pem(certificate))
        write_json(folder / HOSTS_NAME, {"hosts": list(hosts), "expires": _expiry(certificate)})

    def _coordinator_key(self) -> bytes:
        return Credentials.load(self.directory / "coordinator").coordinator_key

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep out another `hedgerow keys` of the same folder."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def broker_hosts(directory: Path) -> tuple[str, ...]:
    """Return the hosts in the certificate of an authority's broker."""
    path = directory / "broker" / HOSTS_NAME
    hosts = read_json(path).get("hosts")
    if not isinstance(hosts, list) or not hosts or not all(isinstance(host, str) for host in hosts):
        raise CredentialsError(f"{path} is damaged")
    return tuple(hosts)


def day(unix_time: float) -> str:
    """Return a date as a person writes it."""
    return time.strftime("%Y-%m-%d", time.gmtime(unix_time))


def _revoked(devices: Devices, name: str, *, now: float) -> Devices:
    device = devices.by_name[name]
    return Devices(
        by_name={**devices.by_name, name: replace(device, revoked=int(now))},
        revoked_serials={**devices.revoked_serials, device.serial: int(now)},
    )


def _end(now: float, *, days: int) -> int:
    if now < EARLIEST_NOW:
        raise UsageError(f"the clock of this machine says {day(now)}: set it, then make keys")
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"a period must be from 1 to {MAX_DAYS} days, not {days}")
    return int(now) + days * DAY_S


def _expiry(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_after_utc.timestamp())
