"""Folders of credentials, the register of devices, and Ed25519 keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hedgerow_transport import (
    Credentials,
    CredentialsError,
    Device,
    DeviceRegister,
    Devices,
    SigningKey,
    verifies,
    write_credentials,
)


def make(directory: Path, *, role: str = "device", name: str = "pi-3") -> SigningKey:
    key = SigningKey.generate()
    coordinator = key.public if role == "coordinator" else SigningKey.generate().public
    write_credentials(
        directory,
        role="coordinator" if role == "coordinator" else "device",
        name=name,
        authority=b"ca",
        certificate=b"cert",
        key=b"key",
        signing_key=key,
        coordinator_key=coordinator,
        made=1_700_000_000,
        expires=1_800_000_000,
    )
    return key


def test_what_is_written_is_read(tmp_path: Path) -> None:
    key = make(tmp_path / "c")
    found = Credentials.load(tmp_path / "c", role="device")
    assert (found.name, found.role, found.expires, found.made) == (
        "pi-3",
        "device",
        1_800_000_000,
        1_700_000_000,
    )
    assert found.signing_key.public == key.public
    assert [path.read_bytes() for path in (found.cafile, found.certfile, found.keyfile)] == [
        b"ca",
        b"cert",
        b"key",
    ]
    assert key.public.hex() not in repr(found) or "signing_key" not in repr(found)
    for private in ("key.pem", "signing.pem"):
        assert (tmp_path / "c" / private).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700


def test_private_keys_are_never_overwritten(tmp_path: Path) -> None:
    key = make(tmp_path / "c")
    with pytest.raises(FileExistsError):
        make(tmp_path / "c")
    assert Credentials.load(tmp_path / "c").signing_key.public == key.public


def test_half_a_folder_is_none(tmp_path: Path) -> None:
    make(tmp_path / "c")
    (tmp_path / "c" / "credentials.json").unlink()
    with pytest.raises(CredentialsError, match=r"there are no credentials in .*: `hedgerow keys join` makes"):
        Credentials.load(tmp_path / "c")


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem", "signing.pem"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    make(tmp_path / "c")
    (tmp_path / "c" / name).unlink()
    with pytest.raises(CredentialsError, match=f"cannot read .*{name}: No such file"):
        Credentials.load(tmp_path / "c")


@pytest.mark.parametrize("name", ["key.pem", "signing.pem"])
def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path / "c")
    (tmp_path / "c" / name).chmod(0o640)
    with pytest.raises(CredentialsError, match=rf"{name} can be read by others: chmod 600"):
        Credentials.load(tmp_path / "c")


def test_credentials_of_another_role_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "c")
    with pytest.raises(CredentialsError, match="are for a device, not a coordinator: use keys/coordinator"):
        Credentials.load(tmp_path / "c", role="coordinator")
    make(tmp_path / "k", role="coordinator", name="coordinator.hedgerow")
    assert Credentials.load(tmp_path / "k", role="coordinator").role == "coordinator"
    with pytest.raises(CredentialsError, match="are for a coordinator, not a device"):
        Credentials.load(tmp_path / "k", role="device")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[]", "it is no JSON object"),
        ("{}", "is damaged, or of another version"),
        ('{"version": 2}', "is damaged, or of another version"),
        ("x" * ((1 << 24) + 1), "more than"),
    ],
)
def test_damaged_facts_are_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    make(tmp_path / "c")
    (tmp_path / "c" / "credentials.json").write_text(content)
    with pytest.raises(CredentialsError, match=sentence):
        Credentials.load(tmp_path / "c")


@pytest.mark.parametrize(
    "change", [{"role": "king"}, {"name": 7}, {"expires": "never"}, {"coordinator_key": "ab"}]
)
def test_wrong_facts_are_a_sentence(tmp_path: Path, change: dict[str, object]) -> None:
    make(tmp_path / "c")
    path = tmp_path / "c" / "credentials.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CredentialsError, match="is damaged, or of another version"):
        Credentials.load(tmp_path / "c")


def test_a_signing_key_that_is_none_or_another_one_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "c")
    (tmp_path / "c" / "signing.pem").write_text("nonsense")
    with pytest.raises(CredentialsError, match=r"signing\.pem is no private key"):
        Credentials.load(tmp_path / "c")
    make(tmp_path / "k", role="coordinator")
    (tmp_path / "k" / "signing.pem").write_bytes(SigningKey.generate().to_pem())
    with pytest.raises(CredentialsError, match=r"signing\.pem is not the key that"):
        Credentials.load(tmp_path / "k")


def test_a_signature_is_by_one_key_over_one_text() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    signature = key.sign(b"text")
    assert len(signature) == 64
    assert verifies(key.public, signature=signature, data=b"text")
    assert not verifies(key.public, signature=signature, data=b"texT")
    assert not verifies(other.public, signature=signature, data=b"text")
    assert not verifies(key.public, signature=b"", data=b"text")
    assert SigningKey.from_pem(key.to_pem()).public == key.public
    assert key.derive(b"a", num_bytes=4) == SigningKey.from_pem(key.to_pem()).derive(b"a", num_bytes=4)
    assert key.derive(b"a", num_bytes=4) != other.derive(b"a", num_bytes=4)


def test_without_cryptography_it_says_what_to_install(tmp_path: Path) -> None:
    make(tmp_path / "c")
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from importlib import util; find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'cryptography' else find(name, *rest)\n"
        "from pathlib import Path; from hedgerow_transport import Credentials, CredentialsError\n"
        f"try: Credentials.load(Path({str(tmp_path / 'c')!r}))\n"
        "except CredentialsError as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'hedgerow[secure]'" in answer.stdout


# -- the register -----------------------------------------------------------------------------------------


def device(**values: int) -> Device:
    return Device(signing_key=SigningKey.generate().public, **{"serial": 2**159 + 1, "expires": 9, **values})


def test_a_register_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    Devices().write(path)
    register = DeviceRegister(path)
    assert register.find("pi-3") is None
    found = device()
    Devices(by_name={"pi-3": found}).write(path)
    assert register.find("pi-3") == found
    Devices(by_name={"pi-3": device(revoked=7)}, revoked_serials={found.serial: 7}).write(path)
    again = register.find("pi-3")
    assert again is not None
    assert again.revoked == 7
    assert Devices.read(path).revoked_serials == {found.serial: 7}


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"version": 1, "devices": [], "revoked_serials": {}}',
        '{"version": 1, "devices": {"../x": {}}, "revoked_serials": {}}',
        '{"version": 1, "devices": {"a": {"signing_key": "00", "serial": "1"}}, "revoked_serials": {}}',
        '{"version": 1, "devices": {}, "revoked_serials": {"x": 1}}',
    ],
)
def test_a_damaged_register_is_a_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "devices.json"
    path.write_text(content)
    with pytest.raises(CredentialsError, match=r"devices\.json is damaged"):
        Devices.read(path)
