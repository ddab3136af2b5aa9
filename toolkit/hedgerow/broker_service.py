"""A Mosquitto of our own as a service: its files, what is said about it, and watching over it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow_transport import (
    MOSQUITTO_CONFIG_NAME,
    Broker,
    BrokerError,
    MosquittoConfig,
    acl_text,
    find_mosquitto,
    mosquitto_version,
    read_json,
    run_mosquitto,
)

ACL_NAME = "acl"
WATCH_PAUSE_S = 0.5
_EVERYWHERE = ("0.0.0.0", "::")
# What Debian 12 and Raspberry Pi OS have; asked for where Mosquitto is on another machine.
USUAL_VERSION = (2, 0, 11)


def write_files(
    config: MosquittoConfig, *, directory: Path, coordinator: str | None, shared: bool
) -> tuple[int, int, int]:
    """Write the configuration and, for a coordinator of that name, the access list; return for which version.

    Parameters
    ----------
    config : MosquittoConfig
    directory : Path
    coordinator : str or None
        None where the access list is somebody else's.
    shared : bool
        Whether Mosquitto will run as another user.

    Raises
    ------
    hedgerow_transport.BrokerError
        When the version of Mosquitto is not known.
    OSError
        When the folder cannot be written.
    """
    program = find_mosquitto()
    version = USUAL_VERSION if program is None else mosquitto_version(program)
    text = config.render(version)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / MOSQUITTO_CONFIG_NAME
    if path.exists() and "Written by Hedgerow" not in path.read_text(errors="replace"):
        raise UsageError(f"{path} was not written by Hedgerow: name another --directory")
    path.write_text(text)
    if coordinator is not None:
        acl = directory / ACL_NAME
        acl.write_text(acl_text(coordinator=coordinator))
        # Nothing in it is secret, but Mosquitto 2.1 warns of one that everybody can read.
        acl.chmod(0o644 if shared else 0o600)
    if config.persistence is not None:
        config.persistence.mkdir(mode=0o700, exist_ok=True)
    return version


def is_loopback(address: str) -> bool:
    """Return whether an address to listen on can be reached from this machine only."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def client_urls(config: MosquittoConfig, *, names: Sequence[str] = ()) -> list[str]:
    """Return the URLs to give to clients; `names` are those in the broker's certificate."""
    everywhere = config.bind is None or config.bind in _EVERYWHERE
    hosts = list(names) or [socket.gethostname() if everywhere else config.bind or ""]
    default = 8883 if config.tls else 1883
    port = "" if config.port == default else f":{config.port}"
    return [f"{config.scheme}://{f'[{host}]' if ':' in host else host}{port}" for host in hosts]


def public_hosts(keys: Path) -> list[str]:
    """Return the hosts in the broker's certificate that `hedgerow keys` has made; localhost only if alone."""
    hosts = read_json(keys / "broker" / "hosts.json").get("hosts")
    names = [host for host in hosts if isinstance(host, str)] if isinstance(hosts, list) else []
    return [host for host in names if not is_loopback(host)] or names


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerService:
    """Run Mosquitto and keep it in step with the list of revoked certificates.

    Mosquitto cuts nobody off whose certificate is revoked while it is connected, and some versions never look
    at the list again. So it is started anew when the list changes; everybody else is back within seconds.
    """

    config: MosquittoConfig
    directory: Path
    say: Callable[[str], None]

    def run(self, stop: threading.Event, *, ready: Callable[[], None]) -> None:
        """Run until `stop` is set; `ready` is called once it listens.

        Raises
        ------
        hedgerow_transport.BrokerError
            When it does not start, or ends by itself.
        """
        broker = self._start()
        try:
            ready()
            seen = self._revocations()
            while not stop.is_set():
                stop.wait(WATCH_PAUSE_S)
                if not broker.alive:
                    raise BrokerError("Mosquitto has ended by itself; see what it said above")
                if self._revocations() != seen:
                    seen = self._revocations()
                    broker.close()
                    broker = self._start()
                    self.say("the list of revoked certificates has changed: Mosquitto was started anew")
        finally:
            broker.close()

    def _start(self) -> Broker:
        return run_mosquitto(self.config, directory=self.directory)

    def _revocations(self) -> bytes:
        path = None if self.config.tls is None else self.config.tls.crlfile
        if path is None:
            return b""
        with contextlib.suppress(OSError):
            return path.read_bytes()
        return b""
