"""Start a broker here, for a demo and a first try: loopback only, a child that ends with its parent."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from hedgerow_transport.child import die_with_parent, end_child
from hedgerow_transport.errors import BrokerError, BrokerMissing
from hedgerow_transport.manifest import MAX_CHUNK_BYTES
from hedgerow_transport.probe import probe_broker

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 10.0
# The largest chunk, with room for its topic and headers.
MAX_BROKER_PACKET_BYTES = MAX_CHUNK_BYTES + (64 << 10)
_INSTALL = "install Mosquitto (apt-get install mosquitto), or amqtt (pip install amqtt)"
_SYSTEM_PROGRAMS = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
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
    log : Path
        What it had to say.
    """

    def __init__(self, *, name: str, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
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
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BrokerError(f"cannot write to {directory}: {error.strerror}") from error
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


def find_mosquitto() -> str | None:
    """Return the path of the Mosquitto program, or None; Debian keeps it out of a user's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_SYSTEM_PROGRAMS)


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
                process = _spawn_mosquitto(directory, port=port, output=output)
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


def _spawn_mosquitto(directory: Path, *, port: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    program = find_mosquitto()
    assert program is not None
    config = directory / "mosquitto.conf"
    config.write_text(_mosquitto_config(port), encoding="utf-8")
    user = _unprivileged_user()
    if user is None:
        return _spawn([program, "-c", str(config)], output=output)
    # Started by root. Were Mosquitto to drop its rights itself, the kernel would forget that it shall die
    # with its parent; so they are dropped before. The files of root's directory may be closed to the new
    # user, hence the configuration comes through a descriptor, and the log through stderr.
    handle = os.memfd_create("mosquitto.conf")
    try:
        os.write(handle, config.read_bytes())
        return _spawn([program, "-c", f"/proc/self/fd/{handle}"], output=output, user=user, handle=handle)
    except PermissionError:
        # A container in which even root may not change its user.
        config.write_text(_mosquitto_config(port) + "user root\n", encoding="utf-8")
        return _spawn([program, "-c", str(config)], output=output)
    finally:
        os.close(handle)


def _mosquitto_config(port: int) -> str:
    return (
        f"listener {port} {LOOPBACK}\n"
        "allow_anonymous true\n"
        "persistence false\n"
        f"max_packet_size {MAX_BROKER_PACKET_BYTES}\n"
        # For each subscriber that is slow to read.
        "max_queued_messages 1000\n"
        "set_tcp_nodelay true\n"
        "sys_interval 0\n"
        "connection_messages false\n"
        "log_dest stderr\n"
        "log_type error\n"
        "log_type warning\n"
    )


def _unprivileged_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0 or sys.platform != "linux":
        return None
    for name in ("mosquitto", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _spawn_embedded(*, port: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "hedgerow_transport.embedded_broker"]
    return _spawn([*program, LOOPBACK, str(port)], output=output)


def _spawn(
    command: list[str], *, output: IO[bytes], user: pwd.struct_passwd | None = None, handle: int | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        # Of its own group, so that Ctrl-C in a terminal lets the parent end it in good order.
        process_group=0,
        preexec_fn=die_with_parent,
        pass_fds=() if handle is None else (handle,),
        user=None if user is None else user.pw_uid,
        group=None if user is None else user.pw_gid,
        extra_groups=None if user is None else [],
    )


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


def _check_free(port: int) -> None:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((LOOPBACK, port))
        except OverflowError as error:
            raise BrokerError(f"port {port} is no port: use 1 to 65535, or 0 for any free one") from error
        except OSError as error:
            raise BrokerError(
                f"port {port} cannot be used ({error.strerror}): choose another one, "
                f"or use the broker that may run there already (mqtt://{LOOPBACK}:{port})"
            ) from error


def _free_port() -> int:
    with socket.socket() as attempt:
        attempt.bind((LOOPBACK, 0))
        port: int = attempt.getsockname()[1]
        return port
