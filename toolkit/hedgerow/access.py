"""How a command is let in by a broker and proves who it is: --credentials, or --ca, --cert and --key."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow_transport import BrokerUrl, Credentials, Role, url_with_files

SYSTEM = "system"
SOON_S = 30 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The way to a broker.

    Parameters
    ----------
    broker : str
        Its URL, with the files for TLS in it.
    credentials : Credentials or None
        Who we are; None where messages are not signed.
    warnings : tuple of str
        Sentences for the person.
    """

    broker: str
    credentials: Credentials | None
    warnings: tuple[str, ...] = ()


def add_access_arguments(parser: argparse.ArgumentParser, *, maker: str) -> None:
    """Describe the call; `maker` says what makes the credentials."""
    group = parser.add_argument_group("over a network that is not trusted")
    group.add_argument(
        "--credentials",
        metavar="FOLDER",
        type=Path,
        help=f"certificate and keys, made by {maker}: for TLS, and to sign messages and check signatures",
    )
    group.add_argument(
        "--ca",
        metavar="FILE",
        help=f"who has signed the broker's certificate (PEM), or `{SYSTEM}`: the CAs of this machine, and no "
        "certificate of ours but --cert; default: that of --credentials, else the CAs of this machine",
    )
    group.add_argument("--cert", metavar="FILE", type=Path, help="client certificate (PEM), for mqtts://")
    group.add_argument("--key", metavar="FILE", type=Path, help="its private key (PEM)")


def read_access(options: argparse.Namespace, *, role: Role | None) -> Access:
    """Return the way to the broker that a call names; `role` is that of the credentials it needs.

    Raises
    ------
    hedgerow_transport.BrokerUrlError, hedgerow_transport.CredentialsError, hedgerow.errors.UsageError
        One sentence.
    """
    url = BrokerUrl.parse(options.broker)
    cert, key = options.cert, options.key
    if key is not None and cert is None:
        raise UsageError("--key needs the certificate that it belongs to: give --cert")
    credentials = None if options.credentials is None else Credentials.load(options.credentials, role=role)
    system = options.ca == SYSTEM
    ca = None if system or options.ca is None else Path(options.ca)
    if credentials is not None and url.tls and not system:
        ca = ca or credentials.cafile
        if cert is None:
            cert, key = credentials.certfile, credentials.keyfile
    warnings = [] if credentials is None else list(expiry_warnings(credentials, now=time.time()))
    if credentials is not None and not url.tls and not url.is_local:
        warnings.append(f"the way to {url.place} is not encrypted: messages are signed, and can be read")
    broker = url_with_files(options.broker, cafile=ca, certfile=cert, keyfile=key)
    return Access(broker=broker, credentials=credentials, warnings=tuple(warnings))


def expiry_warnings(credentials: Credentials, *, now: float) -> list[str]:
    """Return what there is to say about the end of credentials, as long as the clock can be believed."""
    left_s = credentials.expires - now
    day = time.strftime("%Y-%m-%d", time.gmtime(credentials.expires))
    remedy = "hedgerow keys renew" if credentials.role == "coordinator" else "hedgerow keys token --replace"
    if now < credentials.made:
        made = time.strftime("%Y-%m-%d", time.gmtime(credentials.made))
        return [f"the clock of this machine is behind: it is older than the credentials, which are of {made}"]
    if left_s < 0:
        return [f"the credentials in {credentials.directory} have expired on {day}: {remedy}"]
    if left_s < SOON_S:
        return [f"the credentials in {credentials.directory} expire on {day}: {remedy}"]
    return []
