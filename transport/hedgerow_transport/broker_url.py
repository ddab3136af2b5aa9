"""The address of a broker: ``mqtt://user:password@host:port`` or ``mqtts://...?cafile=/path/ca.pem``.

``?certfile=...&keyfile=...`` is our own certificate. ``?protocol=3.1.1`` (or ``5``) settles the version of
MQTT; without it 5 is tried first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from hedgerow_transport.errors import BrokerUrlError

PROTOCOLS = ("5", "3.1.1")
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_FILES = ("cafile", "certfile", "keyfile")
_EXAMPLE = "write it like mqtt://host:1883 or mqtts://user:password@host:8883"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """Where a broker is and how to be let in; printing it does not show the password."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    protocols: tuple[str, ...] = PROTOCOLS

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether the broker is on this machine."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @classmethod
    def parse(cls, url: str) -> BrokerUrl:
        """Read a URL.

        Raises
        ------
        BrokerUrlError
            When it cannot be understood; the sentence does not repeat a password.
        """
        scheme, separator, _ = url.partition("://")
        if not separator:
            raise BrokerUrlError(f"a broker URL without mqtt:// cannot be understood: {_EXAMPLE}")
        if scheme not in _PORTS:
            raise BrokerUrlError(f"the broker URL starts with {scheme[:20]}://, not with mqtt://: {_EXAMPLE}")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise BrokerUrlError(f"the port or host in the broker URL is wrong: {_EXAMPLE}") from error
        if not host:
            raise BrokerUrlError(f"the broker URL names no host: {_EXAMPLE}")
        if port == 0:
            raise BrokerUrlError(f"port 0 in the broker URL is no port: {_EXAMPLE}")
        if parts.path not in ("", "/") or parts.fragment:
            raise BrokerUrlError(f"the broker URL goes on after the port: {_EXAMPLE}")
        tls = scheme == "mqtts"
        return cls(
            host=host,
            port=port or _PORTS[scheme],
            tls=tls,
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
            **_read_options(parts.query, tls=tls),
        )


def _read_options(query: str, *, tls: bool) -> dict[str, Any]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    protocol = options.pop("protocol", None)
    files = {name: options.pop(name) for name in _FILES if name in options}
    if options:
        unknown = next(iter(options))[:40]
        raise BrokerUrlError(
            f"the broker URL has the option {unknown!r}: {', '.join(_FILES)} and protocol are known"
        )
    read: dict[str, Any] = {}
    if protocol is not None:
        if protocol not in PROTOCOLS:
            raise BrokerUrlError(f"the broker URL asks for MQTT {protocol[:20]!r}: use 5 or 3.1.1")
        read["protocols"] = (protocol,)
    for name, path in files.items():
        if not tls:
            raise BrokerUrlError(f"the broker URL has a {name} but mqtt:// uses no TLS: write mqtts://")
        if not Path(path).is_file():
            raise BrokerUrlError(f"the {name} of the broker URL, {path}, is not a file")
        read[name] = Path(path)
    if "keyfile" in files and "certfile" not in files:
        raise BrokerUrlError("the broker URL has a keyfile but no certfile")
    return read


def url_with_files(
    url: str, *, cafile: Path | None = None, certfile: Path | None = None, keyfile: Path | None = None
) -> str:
    """Return a URL with files for TLS; those that it names itself stay.

    Raises
    ------
    BrokerUrlError
        When it cannot be understood, or is one without TLS.
    """
    wanted = {"cafile": cafile, "certfile": certfile, "keyfile": keyfile}
    named = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    if "certfile" in named:
        del wanted["keyfile"]
    added = [
        f"{name}={quote(str(path), safe='/')}"
        for name, path in wanted.items()
        if path is not None and name not in named
    ]
    if added:
        url = f"{url}{'&' if '?' in url else '?'}{'&'.join(added)}"
    BrokerUrl.parse(url)
    return url
