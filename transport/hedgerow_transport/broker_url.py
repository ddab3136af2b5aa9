"""The address of a broker: ``mqtt://user:password@host:port`` or ``mqtts://...?cafile=/path/ca.pem``.

``?protocol=3.1.1`` (or ``5``) settles the version of MQTT; without it 5 is tried first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from hedgerow_transport.errors import BrokerUrlError

PROTOCOLS = ("5", "3.1.1")
_PORTS = {"mqtt": 1883, "mqtts": 8883}
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
    protocols: tuple[str, ...] = PROTOCOLS

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

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
    cafile, protocol = options.pop("cafile", None), options.pop("protocol", None)
    if options:
        unknown = next(iter(options))[:40]
        raise BrokerUrlError(f"the broker URL has the option {unknown!r}: cafile and protocol are known")
    read: dict[str, Any] = {}
    if protocol is not None:
        if protocol not in PROTOCOLS:
            raise BrokerUrlError(f"the broker URL asks for MQTT {protocol[:20]!r}: use 5 or 3.1.1")
        read["protocols"] = (protocol,)
    if cafile is not None:
        if not tls:
            raise BrokerUrlError("the broker URL has a cafile but mqtt:// uses no TLS: write mqtts://")
        if not Path(cafile).is_file():
            raise BrokerUrlError(f"the cafile of the broker URL, {cafile}, is not a file")
        read["cafile"] = Path(cafile)
    return read
