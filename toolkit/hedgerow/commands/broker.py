"""Run a Mosquitto that fits Hedgerow, or write a configuration for one that runs as a service.

`run` starts it in the foreground until Ctrl-C or SIGTERM. Without users it listens on this machine only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hedgerow.console import say, stop_on_signals
from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode

if TYPE_CHECKING:
    from hedgerow_transport import MosquittoConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("run", "start Mosquitto in the foreground, and print the URL for clients"),
        ("config", "write mosquitto.conf and the access list, for a Mosquitto that runs as a service"),
    ):
        _describe(actions.add_parser(name, help=text, description=text))


def _describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory",
        metavar="FOLDER",
        type=Path,
        default=Path("broker"),
        help="for mosquitto.conf, the access list and retained messages; default: ./%(default)s",
    )
    parser.add_argument("--port", metavar="N", type=int, help="default: 1883, with TLS 8883")
    parser.add_argument(
        "--bind",
        metavar="ADDRESS",
        help="address to listen on; default: all where clients show who they are, else 127.0.0.1",
    )
    parser.add_argument(
        "--anonymous", action="store_true", help="listen on other addresses although anybody may take part"
    )
    tls = parser.add_argument_group("TLS")
    tls.add_argument(
        "--keys",
        metavar="FOLDER",
        type=Path,
        help="what `hedgerow keys init` has made: TLS, client certificates, the access list, and revocations",
    )
    tls.add_argument("--cert", metavar="FILE", type=Path, help="the broker's certificate (PEM)")
    tls.add_argument("--key", metavar="FILE", type=Path, help="its private key (PEM)")
    tls.add_argument(
        "--ca",
        metavar="FILE",
        type=Path,
        help="clients must show a certificate signed by this authority; its common name is their user name",
    )
    tls.add_argument("--crl", metavar="FILE", type=Path, help="certificates that are revoked (PEM)")
    users = parser.add_argument_group("users")
    users.add_argument(
        "--password-file", metavar="FILE", type=Path, help="users and passwords, made with mosquitto_passwd"
    )
    users.add_argument(
        "--acl", metavar="FILE", type=Path, help="an access list of yours; default: one that fits Hedgerow"
    )
    users.add_argument(
        "--coordinator-user",
        metavar="NAME",
        help="who may write everything; default: coordinator.hedgerow with certificates, else coordinator",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-packet-bytes", metavar="N", type=int, default=1_114_112, help="default: %(default)s"
    )
    limits.add_argument(
        "--max-queued",
        metavar="N",
        type=int,
        default=1000,
        help="messages per slow client; default: %(default)s",
    )
    limits.add_argument(
        "--max-inflight",
        metavar="N",
        type=int,
        default=20,
        help="unacknowledged messages per client; default: %(default)s",
    )
    limits.add_argument("--max-connections", metavar="N", type=int, help="default: no limit")
    limits.add_argument(
        "--persistence",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep retained messages over a restart; default: yes",
    )


def run(options: argparse.Namespace) -> int:
    """Write the files, and start the broker."""
    from hedgerow.broker_service import BrokerService, client_urls, public_hosts, write_files
    from hedgerow_transport import MOSQUITTO_CONFIG_NAME, BrokerMissing, find_mosquitto

    directory: Path = options.directory
    config, coordinator = _config(options)
    if options.action == "run" and find_mosquitto() is None:
        raise BrokerMissing("Mosquitto is not installed here: apt-get install mosquitto")
    shared = options.action == "config"
    found = write_files(config, directory=directory, coordinator=coordinator, shared=shared)
    version = ".".join(map(str, found))
    if options.action == "config":
        path = directory / MOSQUITTO_CONFIG_NAME
        print(f"wrote {path} for Mosquitto {version}; start it with: mosquitto -c {path}")
        print("the user it runs as must be able to read the files that are named there")
        if config.persistence is not None:
            print(f"and to write {config.persistence}")
        return ExitCode.DONE

    def tell() -> None:
        say(f"Mosquitto {version} listens on {config.bind or 'all addresses'}, port {config.port}")
        if not config.knows_its_clients:
            say("there are no users: whoever reaches it may take part")
        names = () if options.keys is None else public_hosts(options.keys)
        say(f"URL for coordinator and clients: {' or '.join(client_urls(config, names=names))}")

    with stop_on_signals() as stop, contextlib.suppress(KeyboardInterrupt):
        BrokerService(config=config, directory=directory, say=say).run(stop, ready=tell)
    say("stopped")
    return ExitCode.INTERRUPTED


def _take_keys(options: argparse.Namespace) -> None:
    """Fill in what a folder of keys has."""
    given = [name for name in ("cert", "key", "ca", "crl") if getattr(options, name) is not None]
    if given:
        raise UsageError(f"give --keys or --{given[0]}, not both")
    folder: Path = options.keys / "broker"
    if not (folder / "cert.pem").is_file():
        raise UsageError(
            f"there are no keys in {options.keys}: `hedgerow keys init {options.keys}` makes them"
        )
    options.cert, options.key = folder / "cert.pem", folder / "key.pem"
    options.ca, options.crl = folder / "ca.pem", folder / "crl.pem"


def _config(options: argparse.Namespace) -> tuple[MosquittoConfig, str | None]:
    """Return the settings, and the coordinator's name where an access list is to be written for it."""
    from hedgerow.broker_service import ACL_NAME, is_loopback
    from hedgerow_transport import COORDINATOR_IDENTITY, MosquittoConfig, TlsFiles

    directory: Path = options.directory.absolute()
    if options.keys is not None:
        _take_keys(options)
    files = {name: getattr(options, name) for name in ("cert", "key", "ca", "crl", "acl", "password_file")}
    for name, path in files.items():
        if path is not None:
            files[name] = path.absolute()
            if not os.access(path, os.R_OK):
                raise UsageError(f"--{name.replace('_', '-')} {path} cannot be read")
    if (files["cert"] is None) != (files["key"] is None):
        raise UsageError("TLS needs both --cert and --key")
    if files["cert"] is None and (files["ca"] or files["crl"]):
        raise UsageError("client certificates need TLS: give --cert and --key, too")
    tls = None
    if files["cert"] is not None:
        tls = TlsFiles(certfile=files["cert"], keyfile=files["key"], cafile=files["ca"], crlfile=files["crl"])
    with_users = files["ca"] is not None or files["password_file"] is not None
    coordinator = None
    if with_users and files["acl"] is None:
        files["acl"] = directory / ACL_NAME
        coordinator = options.coordinator_user or (COORDINATOR_IDENTITY if files["ca"] else "coordinator")
    bind = options.bind
    if not with_users and not options.anonymous:
        if bind is not None and not is_loopback(bind):
            raise UsageError(
                f"at {bind} anybody in the network could take part: give --keys or --password-file, "
                "or say --anonymous"
            )
        bind = bind or "127.0.0.1"
    config = MosquittoConfig(
        port=options.port or (8883 if tls else 1883),
        bind=bind,
        persistence=directory / "retained" if options.persistence else None,
        max_packet_bytes=options.max_packet_bytes,
        max_queued_messages=options.max_queued,
        max_inflight_messages=options.max_inflight,
        max_connections=options.max_connections,
        tls=tls,
        password_file=files["password_file"],
        acl_file=files["acl"],
        acl_is_ours=coordinator is not None,
        timestamps=True,
    )
    return config, coordinator
