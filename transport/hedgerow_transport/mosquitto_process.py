"""Starting Mosquitto as a child that ends with us, without the rights of root."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from hedgerow_transport.child import spawn_child
from hedgerow_transport.errors import BrokerError
from hedgerow_transport.mosquitto_config import MosquittoConfig, TlsFiles, find_mosquitto, mosquitto_version

MOSQUITTO_CONFIG_NAME = "mosquitto.conf"


def spawn_mosquitto(
    config: MosquittoConfig, *, directory: Path, output: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start Mosquitto; its configuration is written to ``mosquitto.conf`` in `directory`.

    Raises
    ------
    BrokerError
        When a file cannot be read or written, or the version is not known.
    OSError
        When the program cannot be started.
    """
    program = find_mosquitto()
    assert program is not None
    version = mosquitto_version(program)
    path = directory / MOSQUITTO_CONFIG_NAME
    try:
        path.write_text(config.render(version), encoding="utf-8")
        if config.persistence is not None:
            config.persistence.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BrokerError(f"cannot write {error.filename}: {error.strerror}") from error
    user = _unprivileged_user()
    if user is None:
        return spawn_child([program, "-c", str(path)], output=output)
    # Started by root. Were Mosquitto to drop its rights itself, the kernel would forget that it shall die
    # with its parent; so they are dropped before. The files of root's directories may be closed to the new
    # user, hence configuration and keys come through descriptors, and the log through stderr.
    handles: list[int] = []
    try:
        for_user = _for_user(config, user=user, directory=directory, lend=lambda p: _lend(p, handles))
        handle = _memory(for_user.render(version).encode(), name=MOSQUITTO_CONFIG_NAME)
        handles.append(handle)
        command = [program, "-c", f"/proc/self/fd/{handle}"]
        return spawn_child(command, output=output, user=user, handles=handles)
    except PermissionError:
        # A container in which even root may not change its user.
        path.write_text(config.render(version) + "user root\n", encoding="utf-8")
        return spawn_child([program, "-c", str(path)], output=output)
    finally:
        for handle in handles:
            os.close(handle)


def _unprivileged_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0 or sys.platform != "linux":
        return None
    for name in ("mosquitto", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _for_user(
    config: MosquittoConfig,
    *,
    user: pwd.struct_passwd,
    directory: Path,
    lend: Callable[[Path], Path],
) -> MosquittoConfig:
    """Return the same settings with files that another user can read."""
    if config.tls is not None:
        tls = config.tls
        config = replace(
            config,
            tls=TlsFiles(
                certfile=lend(tls.certfile),
                keyfile=lend(tls.keyfile),
                cafile=None if tls.cafile is None else lend(tls.cafile),
                crlfile=None if tls.crlfile is None else lend(tls.crlfile),
            ),
        )
    if config.persistence is None and config.acl_file is None and config.password_file is None:
        return config
    # Mosquitto 2.1 opens these files by no descriptor, and writes into that folder.
    _check_way(directory, user=user)
    if config.persistence is not None:
        _check_way(config.persistence.parent, user=user)
        for path in (config.persistence, *config.persistence.glob("mosquitto.db*")):
            os.chown(path, user.pw_uid, user.pw_gid)
    return replace(
        config,
        acl_file=_copy(config.acl_file, directory / "acl.broker", user=user),
        password_file=_copy(config.password_file, directory / "passwords.broker", user=user),
    )


def _lend(path: Path, handles: list[int]) -> Path:
    handle = _memory(_read(path), name=path.name)
    handles.append(handle)
    return Path(f"/proc/self/fd/{handle}")


def _memory(data: bytes, *, name: str) -> int:
    handle = os.memfd_create(name)
    os.write(handle, data)
    return handle


def _copy(source: Path | None, target: Path, *, user: pwd.struct_passwd) -> Path | None:
    if source is None:
        return None
    data = _read(source)
    try:
        target.unlink(missing_ok=True)
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
        with os.fdopen(handle, "wb") as file:
            os.fchown(handle, user.pw_uid, user.pw_gid)
            file.write(data)
    except PermissionError:
        raise
    except OSError as error:
        raise BrokerError(f"cannot write {target}: {error.strerror}") from error
    return target


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokerError(f"cannot read {path}: {error.strerror}") from error


def _check_way(directory: Path, *, user: pwd.struct_passwd) -> None:
    """Check that a user can reach a directory."""
    for folder in (directory.absolute(), *directory.absolute().parents):
        found = folder.stat()
        owner, group = found.st_uid == user.pw_uid, found.st_gid == user.pw_gid
        wanted = stat.S_IXUSR if owner else stat.S_IXGRP if group else stat.S_IXOTH
        if not found.st_mode & wanted:
            raise BrokerError(
                f"{folder} is closed to {user.pw_name}, the user that the broker gets when root starts it: "
                "name a folder that is open to it, such as /var/lib/hedgerow, or start it as another user"
            )
