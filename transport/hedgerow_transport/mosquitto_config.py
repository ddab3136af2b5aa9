"""What Mosquitto is told: one listener, limits, TLS, and who may read and write what."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hedgerow_transport.errors import BrokerError, BrokerSettingError
from hedgerow_transport.manifest import MAX_CHUNK_BYTES
from hedgerow_transport.topics import TOPIC_ROOT

LOOPBACK = "127.0.0.1"
# The largest chunk, with room for its topic and headers.
MAX_BROKER_PACKET_BYTES = MAX_CHUNK_BYTES + (64 << 10)
# No device can be called so: a name has no dot.
COORDINATOR_IDENTITY = "coordinator.hedgerow"
_SYSTEM_PROGRAMS = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
_VERSION = re.compile(r"mosquitto version (\d+)\.(\d+)\.(\d+)")
_OLDEST, _NEWEST_MAJOR = (1, 6, 0), 2
_SAVE_EVERY_S = 300

MosquittoVersion = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The files of a TLS listener, in PEM.

    Parameters
    ----------
    certfile, keyfile : Path
        The broker's certificate and private key.
    cafile : Path or None
        Who has signed the clients' certificates. With it a client must show one, and the broker knows it by
        the common name in it.
    crlfile : Path or None
        Which of those are revoked.
    """

    certfile: Path
    keyfile: Path
    cafile: Path | None = None
    crlfile: Path | None = None

    def __post_init__(self) -> None:
        if self.crlfile is not None and self.cafile is None:
            raise BrokerSettingError("a revocation list needs the authority's certificate beside it (cafile)")


@dataclass(frozen=True, slots=True, kw_only=True)
class MosquittoConfig:
    """Settings of a Mosquitto.

    Parameters
    ----------
    port : int
    bind : str or None
        Address to listen on; None for all.
    persistence : Path or None
        Folder in which retained messages survive a restart; None keeps nothing on disk.
    max_packet_bytes, max_queued_messages, max_inflight_messages : int
        Largest packet from a client; what waits for each slow subscriber; QoS 1 messages under way to each.
    max_connections : int or None
        None sets no limit.
    tls : TlsFiles or None
    password_file, acl_file : Path or None
    acl_is_ours : bool
        Whether the access list holds `acl_text`.
    timestamps : bool
        Whether log lines begin with date and time as a person writes them.

    Raises
    ------
    BrokerSettingError
        When a path cannot stand in a configuration, or a number is out of its range.
    """

    port: int
    bind: str | None = LOOPBACK
    persistence: Path | None = None
    max_packet_bytes: int = MAX_BROKER_PACKET_BYTES
    max_queued_messages: int = 1000
    max_inflight_messages: int = 20
    max_connections: int | None = None
    tls: TlsFiles | None = None
    password_file: Path | None = None
    acl_file: Path | None = None
    acl_is_ours: bool = False
    timestamps: bool = False

    def __post_init__(self) -> None:
        numbers = {
            "port": (self.port, 1, 65_535),
            # Below it not even a manifest gets through; above it MQTT has no words (MQTT 5, 1.5.5).
            "max_packet_bytes": (self.max_packet_bytes, 4096, 268_435_455),
            "max_queued_messages": (self.max_queued_messages, 1, 1_000_000),
            "max_inflight_messages": (self.max_inflight_messages, 1, 65_535),
            "max_connections": (self.max_connections or 1, 1, 1_000_000),
        }
        for name, (value, low, high) in numbers.items():
            if not low <= value <= high:
                raise BrokerSettingError(f"{name} must be from {low} to {high}, not {value}")

    @property
    def knows_its_clients(self) -> bool:
        """Whether clients must show a certificate or a password."""
        return self.password_file is not None or (self.tls is not None and self.tls.cafile is not None)

    @property
    def scheme(self) -> str:
        """How URLs of this broker begin."""
        return "mqtts" if self.tls else "mqtt"

    def render(self, version: MosquittoVersion) -> str:
        """Return the configuration file for a version of Mosquitto.

        Raises
        ------
        BrokerError
            When that version is not known here.
        """
        check_version(version)
        lines = [
            f"# Written by Hedgerow for Mosquitto {version_text(version)}.",
            f"listener {self.port}" + (f" {self.bind}" if self.bind else ""),
            *([f"max_connections {self.max_connections}"] if self.max_connections else []),
            *(self._tls_lines(version) if self.tls else []),
            # 1.6 lets everybody in unless it is told; 2 nobody.
            f"allow_anonymous {'false' if self.knows_its_clients else 'true'}",
            *([f"password_file {_path(self.password_file)}"] if self.password_file else []),
            *([f"acl_file {_path(self.acl_file)}"] if self.acl_file else []),
            *self._persistence_lines(),
            # Left unset it is 256 MB up to 2.0 and 2 MB from 2.1 on.
            f"max_packet_size {self.max_packet_bytes}",
            "# For each subscriber that is slow to read.",
            f"max_queued_messages {self.max_queued_messages}",
            f"max_inflight_messages {self.max_inflight_messages}",
            "# Otherwise every exchange of small messages waits 40 ms.",
            "set_tcp_nodelay true",
            "sys_interval 0",
            "connection_messages false",
            "log_dest stderr",
            "log_type error",
            # Of an access list it warns for every pattern without a user, as those must be that are for all.
            *([] if self.acl_is_ours else ["log_type warning"]),
            *(["log_timestamp_format %Y-%m-%d %H:%M:%S"] if self.timestamps else []),
        ]
        return "\n".join(lines) + "\n"

    def _tls_lines(self, version: MosquittoVersion) -> list[str]:
        assert self.tls is not None
        lines = [f"certfile {_path(self.tls.certfile)}", f"keyfile {_path(self.tls.keyfile)}"]
        if self.tls.cafile is not None:
            lines += [
                f"cafile {_path(self.tls.cafile)}",
                "require_certificate true",
                "use_identity_as_username true",
            ]
        if self.tls.crlfile is not None:
            lines.append(f"crlfile {_path(self.tls.crlfile)}")
        # From 2.0 on this is the lowest version, in 1.6 the only one.
        lines += ["# 1.6 speaks this version only."] if version < (2, 0, 0) else []
        return [*lines, "tls_version tlsv1.2"]

    def _persistence_lines(self) -> list[str]:
        if self.persistence is None:
            return ["persistence false"]
        return [
            "persistence true",
            # The slash at the end is needed by 1.6.
            f"persistence_location {_path(self.persistence)}/",
            f"autosave_interval {_SAVE_EVERY_S}",
        ]


def acl_text(*, coordinator: str = COORDINATOR_IDENTITY) -> str:
    """Return the access list: a device writes its own topics and reads what it needs, in every namespace.

    Parameters
    ----------
    coordinator : str
        The coordinator's name at the broker.

    Raises
    ------
    BrokerSettingError
        When the name cannot stand in the file.
    """
    if not coordinator.isprintable() or not coordinator or set(coordinator) & set("+#/ "):
        raise BrokerSettingError(f"{coordinator!r} cannot be a user: use no spaces, '/', '+' and '#'")
    every = f"{TOPIC_ROOT}/+"
    return "\n".join(
        [
            "# Written by Hedgerow. %u is the name of the client's certificate, or its user name.",
            f"user {coordinator}",
            f"topic readwrite {TOPIC_ROOT}/#",
            "",
            f"pattern read {every}/manifest",
            f"pattern read {every}/coordinator",
            f"pattern read {every}/delivery",
            f"pattern read {every}/blob/+",
            f"pattern read {every}/down/%u",
            f"pattern readwrite {every}/presence/%u",
            f"pattern write {every}/up/%u/+",
            f"pattern write {every}/need",
            "",
        ]
    )


def find_mosquitto() -> str | None:
    """Return the path of the Mosquitto program, or None; Debian keeps it out of a user's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_SYSTEM_PROGRAMS)


def mosquitto_version(program: str) -> MosquittoVersion:
    """Ask a Mosquitto program for its version.

    Raises
    ------
    BrokerError
        When it does not tell, or is older or newer than what is known here.
    """
    try:
        answer = subprocess.run(
            [program, "-h"], stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerError(f"cannot run {program}: {error}") from error
    found = _VERSION.search(answer.stdout.decode(errors="replace"))
    if found is None:
        said = answer.stderr.decode(errors="replace").strip()[:200]
        raise BrokerError(f"{program} does not tell its version" + (f": {said}" if said else ""))
    version = (int(found[1]), int(found[2]), int(found[3]))
    check_version(version)
    return version


def check_version(version: MosquittoVersion) -> None:
    """Raise `BrokerError` unless a version of Mosquitto is known here."""
    if version < _OLDEST or version[0] > _NEWEST_MAJOR:
        raise BrokerError(f"Mosquitto {version_text(version)} is not known here: use one from 1.6 to 2.x")


def version_text(version: MosquittoVersion) -> str:
    """Return a version as a person writes it."""
    return ".".join(map(str, version))


def _path(path: Path) -> str:
    text = str(path)
    # A value goes to the end of its line; Mosquitto strips spaces there.
    if not text.isprintable() or text != text.strip():
        raise BrokerSettingError(
            f"the path {text!r} cannot stand in Mosquitto's configuration: use another one"
        )
    return text
