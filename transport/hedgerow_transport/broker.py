"""Start a broker here, for a demo and a first try: loopback only, a child that ends with its parent."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from hedgerow_transport.child import end_child, spawn_child
from hedgerow_transport.errors import BrokerError, BrokerMissing
from hedgerow_transport.mosquitto_config import LOOPBACK, MosquittoConfig, find_mosquitto
from hedgerow_transport.mosquitto_process import spawn_mosquitto
from hedgerow_transport.probe import probe_broker

START_TIMEOUT_S = 10.0
_INSTALL = "install Mosquitto (apt-get install mosquitto), or amqtt (pip install amqtt)"
_FREE_PORT_ATTEMPTS = 5


class Broker:
    """A broker that runs as a child of this process; a context manager.

    Attributes
    ----------
    url : str
        What to give to `MqttLink`.
    name : str
        ``"mosquitto"`` or ``"embedded"``.
    pid : int
        Its process.
    log : Path or None
        What it had to say; None where that goes to stderr.
    """

    def __init__(self, *, name: str, url: str, process: subprocess.Popen[bytes], log: Path | None) -> None:
        self.name = name
        self.url = url
        self.pid = process.pid
        self.log = log
        self._process = process

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the broker, within 3 seconds; twice does no harm."""
        end_child(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def start_broker(
    *, directory: Path, port: int = 0, prefer: Literal["mosquitto", "embedded"] | None = None
) -> Broker:
    """Start a broker on loopback and wait until it answers.

    Call it from a thread that lives as long as the broker shall: the kernel ends the child with the *thread*
    that started it (prctl(2), PR_SET_PDEATHSIG).

    Parameters
    ----------
    directory : Path
        Where its configuration and its log are written.
    port : int
        0 picks a free one.
    prefer : str, optional
        ``"mosquitto"`` or ``"embedded"`` (amqtt); without it the first that is installed, in this order.

    Raises
    ------
    BrokerMissing
        When none, or not the wanted one, is installed; says what to install.
    BrokerError
        When the port is taken, or the broker does not come up; then with the end of its log.
    """
    name = _choose(prefer)
    _make(directory)
    if port:
        _check_free(port)
        return _start(name, directory=directory, port=port)
    for _ in range(_FREE_PORT_ATTEMPTS - 1):
        try:
            return _start(name, directory=directory, port=_free_port())
        except BrokerError as error:
            # Somebody was faster to take the port that was free a moment ago.
            if "in use" not in str(error):
                raise
    return _start(name, directory=directory, port=_free_port())


def run_mosquitto(config: MosquittoConfig, *, directory: Path) -> Broker:
    """Start Mosquitto as a child with a configuration of one's own, and wait until it listens.

    What it says goes to this process's stderr. Call it from a thread that lives as long as the broker shall,
    as with `start_broker`.

    Parameters
    ----------
    config : MosquittoConfig
    directory : Path
        Where its configuration is written.

    Raises
    ------
    BrokerMissing
        When Mosquitto is not installed.
    BrokerError
        When its version is not known, the port is taken, or it ends at its start.
    """
    if find_mosquitto() is None:
        raise BrokerMissing("Mosquitto is not installed here: apt-get install mosquitto")
    host = config.bind or LOOPBACK
    _make(directory)
    _check_free(config.port, host=config.bind or "")
    try:
        process = spawn_mosquitto(config, directory=directory, output=None)
    except OSError as error:
        raise BrokerError(f"cannot start Mosquitto: {error}") from error
    try:
        _await_listener(process, host=host, port=config.port)
    except BaseException:
        end_child(process)
        raise
    place = f"[{host}]" if ":" in host else host
    url = f"{config.scheme}://{place}:{config.port}"
    return Broker(name="mosquitto", url=url, process=process, log=None)


def _choose(prefer: str | None) -> str:
    if prefer not in (None, "mosquitto", "embedded"):
        raise ValueError(f"prefer {prefer!r}: use 'mosquitto', 'embedded' or None")
    if prefer != "embedded" and find_mosquitto():
        return "mosquitto"
    if prefer == "mosquitto":
        raise BrokerMissing("Mosquitto is not installed here: apt-get install mosquitto")
    if importlib.util.find_spec("amqtt") is not None:
        return "embedded"
    if prefer == "embedded":
        raise BrokerMissing("the embedded broker is not installed here: pip install amqtt")
    raise BrokerMissing(f"no broker is installed here: {_INSTALL}, or name one that runs elsewhere")


def _start(name: str, *, directory: Path, port: int) -> Broker:
    log = directory / f"{name}.log"
    try:
        with open(log, "wb") as output:
            if name == "mosquitto":
                process = spawn_mosquitto(MosquittoConfig(port=port), directory=directory, output=output)
                url = f"mqtt://{LOOPBACK}:{port}"
            else:
                process = _spawn_embedded(port=port, output=output)
                url = f"mqtt://{LOOPBACK}:{port}?protocol=3.1.1"
    except OSError as error:
        raise BrokerError(f"cannot start the broker ({name}): {error}") from error
    try:
        _await_answer(process, name=name, url=url, log=log)
    except BaseException:
        end_child(process)
        raise
    return Broker(name=name, url=url, process=process, log=log)


def _spawn_embedded(*, port: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "hedgerow_transport.embedded_broker"]
    return spawn_child([*program, LOOPBACK, str(port)], output=output)


def _await_answer(process: subprocess.Popen[bytes], *, name: str, url: str, log: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    reason = ""
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise BrokerError(
                f"the broker ({name}) ended at its start: {_last_lines(log) or 'it said nothing'}"
            )
        facts = probe_broker(url, timeout_s=1.0)
        if facts.reachable:
            return
        reason = facts.reason
        time.sleep(0.02)
    silence = f"the broker ({name}) did not answer within {START_TIMEOUT_S:g} s"
    raise BrokerError(f"{silence}: {reason}; {_last_lines(log)}")


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join(line.strip() for line in lines[-4:] if line.strip())[-800:]


def _await_listener(process: subprocess.Popen[bytes], *, host: str, port: int) -> None:
    # A probe that speaks MQTT would need a certificate or a password here.
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up_at:
        code = process.poll()
        if code is not None:
            raise BrokerError(f"Mosquitto ended at its start with exit code {code}; see what it said above")
        try:
            socket.create_connection((host, port), 1.0).close()
            return
        except OSError:
            time.sleep(0.02)
    raise BrokerError(f"Mosquitto does not listen at {host}:{port} after {START_TIMEOUT_S:g} s")


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BrokerError(f"cannot write to {directory}: {error.strerror}") from error


def _check_free(port: int, *, host: str = LOOPBACK) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except (OverflowError, socket.gaierror) as error:
            if isinstance(error, socket.gaierror):
                raise BrokerError(f"{host} is no address of this machine") from error
            raise BrokerError(f"port {port} is no port: use 1 to 65535, or 0 for any free one") from error
        except OSError as error:
            raise BrokerError(
                f"port {port} cannot be used ({error.strerror}): choose another one, "
                f"or use the broker that may run there already (mqtt://{host or LOOPBACK}:{port})"
            ) from error


def _free_port() -> int:
    with socket.socket() as attempt:
        attempt.bind((LOOPBACK, 0))
        port: int = attempt.getsockname()[1]
        return port
