"""`hedgerow keys`: an authority, devices that join it with a token, and what goes wrong."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode
from hedgerow.keys import gate as gate_module
from hedgerow.keys.authority import Authority
from hedgerow.keys.certificates import common_name, listed_serials, new_key, request_for
from hedgerow.keys.gate import Gate, proof_bytes
from hedgerow.keys.joining import JoinFailed, join, parse_place
from hedgerow.keys.token import Token
from hedgerow.main import main
from hedgerow_transport import Credentials, SigningKey

NOW = 1_790_000_000.0
DAY = 86_400


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return a folder of keys for the host gw.local."""
    folder = tmp_path / "keys"
    assert main(["keys", "init", str(folder), "--host", "gw.local", "--host", "192.168.1.7"]) == 0
    return folder


@pytest.fixture
def gate(keys: Path) -> Iterator[Gate]:
    """Serve a folder of keys."""
    said: list[str] = []
    served = Gate(Authority.open(keys), host="127.0.0.1", port=0, say=said.append)
    served.said = said  # type: ignore[attr-defined]
    yield served
    served.close()


@pytest.fixture
def token(keys: Path) -> Callable[..., Token]:
    def make(name: str = "pi-3", *, hours: float = 1.0, replaces: bool = False) -> Token:
        return Authority.open(keys).new_token(
            name, hours=hours, credential_days=30, replaces=replaces, now=time.time()
        )

    return make


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def openssl(*arguments: object) -> str:
    answer = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    return answer.stdout + answer.stderr


# -- the authority ----------------------------------------------------------------------------------------


def test_init_makes_what_broker_and_coordinator_need(keys: Path) -> None:
    ca = keys / "authority" / "ca.pem"
    for purpose, who in (("sslserver", "broker"), ("sslclient", "coordinator")):
        said = openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca, keys / who / "cert.pem")
        assert said == f"{keys / who / 'cert.pem'}: OK\n"
    # A server's certificate is no client's, and the other way round: a device cannot play the broker.
    assert "error 26 at 0 depth" in openssl(
        "verify", "-purpose", "sslserver", "-CAfile", ca, keys / "coordinator" / "cert.pem"
    )
    names = certificate(keys / "broker" / "cert.pem").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["gw.local", "localhost"]
    assert [str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)] == ["192.168.1.7", "127.0.0.1"]
    assert common_name(certificate(keys / "coordinator" / "cert.pem")) == "coordinator.hedgerow"
    private = [path for path in keys.rglob("*.pem") if "PRIVATE" in path.read_text()]
    assert len(private) == 4
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert keys.stat().st_mode & 0o777 == 0o700


def test_periods_are_those_that_were_named(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "k", hosts=["a"], authority_days=100, days=40, now=NOW)
    assert authority.ends() == {
        "authority": int(NOW) + 100 * DAY,
        "broker": int(NOW) + 40 * DAY,
        "coordinator": int(NOW) + 40 * DAY,
    }
    # Nothing outlives the authority.
    folder = authority.add_device("a", days=400, replaces=False, now=NOW)
    assert Credentials.load(folder).expires == int(NOW) + 100 * DAY
    # A device whose clock was never set must not find its certificates in its future.
    for path in (tmp_path / "k").rglob("c*.pem"):
        if "CERTIFICATE" in path.read_text():
            assert certificate(path).not_valid_before_utc.year == 2020


def test_keys_are_never_overwritten(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    assert main(["keys", "init", str(keys)]) == ExitCode.USAGE
    assert "is not empty: keys are never overwritten, name another folder" in capsys.readouterr().err
    assert main(["keys", "device", "pi-3", "--keys", str(keys)]) == 0
    assert main(["keys", "device", "pi-3", "--keys", str(keys)]) == ExitCode.USAGE
    assert re.search(
        r"'pi-3' has credentials already, until 20\d\d-\d\d-\d\d: --replace", capsys.readouterr().err
    )
    assert before.items() <= {
        path: path.read_bytes() for path in keys.rglob("*") if path.name != "devices.json" and path.is_file()
    }.items() | {(path, data) for path, data in before.items() if path.name == "devices.json"}


def test_a_device_is_replaced_when_that_is_said(keys: Path) -> None:
    main(["keys", "device", "pi-3", "--keys", str(keys)])
    first = certificate(keys / "devices" / "pi-3" / "cert.pem")
    assert main(["keys", "device", "pi-3", "--keys", str(keys), "--replace"]) == 0
    second = certificate(keys / "devices" / "pi-3" / "cert.pem")
    assert listed_serials((keys / "broker" / "crl.pem").read_bytes()) == {first.serial_number}
    assert Authority.open(keys).devices().by_name["pi-3"].serial == second.serial_number
    (old,) = (keys / "devices").glob("pi-3.before-*")
    assert certificate(old / "cert.pem") == first


def test_revoking_enters_the_list_and_the_register(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        main(["keys", "device", name, "--keys", str(keys)])
    crl = keys / "broker" / "crl.pem"
    assert listed_serials(crl.read_bytes()) == set()
    assert main(["keys", "revoke", "a", "--keys", str(keys)]) == 0
    ca, a, b = (keys / place for place in ("authority/ca.pem", "devices/a/cert.pem", "devices/b/cert.pem"))
    check = ("verify", "-crl_check", "-CAfile", ca, "-CRLfile", crl)
    assert "certificate revoked" in openssl(*check, a)
    assert openssl(*check, b) == f"{b}: OK\n"
    assert Authority.open(keys).devices().by_name["a"].revoked > 0
    capsys.readouterr()
    assert main(["keys", "revoke", "a", "--keys", str(keys)]) == ExitCode.USAGE
    assert "'a' was revoked on 20" in capsys.readouterr().err
    assert main(["keys", "revoke", "c", "--keys", str(keys)]) == ExitCode.USAGE
    assert "no device 'c' has credentials here; there are: a, b" in capsys.readouterr().err
    # A name that was revoked may be given again, without --replace.
    assert main(["keys", "device", "a", "--keys", str(keys)]) == 0
    # Adding a device does not touch the list: whoever watches it would start the broker anew.
    stamp = crl.stat().st_mtime_ns
    main(["keys", "device", "c", "--keys", str(keys)])
    assert crl.stat().st_mtime_ns == stamp


def test_certificates_are_renewed_with_the_same_keys(keys: Path) -> None:
    main(["keys", "device", "pi-3", "--keys", str(keys)])
    before = {who: (keys / who / "key.pem").read_bytes() for who in ("broker", "coordinator")}
    old = certificate(keys / "broker" / "cert.pem")
    assert main(["keys", "renew", "--keys", str(keys), "--host", "other.local", "--days", "1000"]) == 0
    assert {who: (keys / who / "key.pem").read_bytes() for who in ("broker", "coordinator")} == before
    new = certificate(keys / "broker" / "cert.pem")
    assert new.public_key() == old.public_key()
    assert new.not_valid_after_utc > old.not_valid_after_utc
    assert "DNS:other.local" in openssl("x509", "-in", keys / "broker" / "cert.pem", "-noout", "-text")
    assert Credentials.load(keys / "coordinator", role="coordinator").expires > time.time() + 999 * DAY
    assert list(Authority.open(keys).devices().by_name) == ["pi-3"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["init", "NEW", "--host", "a b"], "'a b' is neither a host's name nor an address"),
        (["init", "NEW", "--host", "münchen"], "is neither a host's name nor an address"),
        (["init", "NEW", "--days", "0"], "a period must be from 1 to 36500 days, not 0"),
        (["init", "NEW", "--authority-days", "99999"], "not 99999"),
        (["device", "Pi 3"], "the device's name 'Pi 3': use 1 to 32 of a-z"),
        (["device", "coordinator.hedgerow"], "use 1 to 32 of a-z"),
        (["token", "pi", "--hours", "0"], "--hours must be more than 0"),
        (["list", "--keys", "NEW"], "`hedgerow keys init"),
        (["serve", "--port", "70000"], "--port must be from 0 to 65535"),
        (["join", "nonsense", "--gateway", "gw"], "this is no join token"),
        (["join", "hgj1.AAAA", "--gateway", "gw"], "is damaged or cut off"),
    ],
)
def test_wrong_calls_are_a_sentence(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    call = [str(tmp_path / "new") if word == "NEW" else word for word in arguments]
    if arguments[0] not in ("init", "join") and "--keys" not in call:
        call += ["--keys", str(keys)]
    assert main(["keys", *call]) == ExitCode.USAGE
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_clock_that_was_never_set_makes_no_keys(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the clock of this machine says 1970-01-01: set it"):
        Authority.create(tmp_path / "k", hosts=["a"], authority_days=9, days=9, now=60.0)
    assert not (tmp_path / "k").exists()


def test_list_says_who_is_there_and_until_when(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", "device", "a", "--keys", str(keys)])
    main(["keys", "token", "b", "--keys", str(keys)])
    capsys.readouterr()
    assert main(["keys", "list", "--keys", str(keys), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hosts"] == ["gw.local", "192.168.1.7", "localhost", "127.0.0.1"]
    assert found["devices"]["a"]["revoked"] is None
    assert found["tokens"][0]["name"] == "b"
    assert main(["keys", "list", "--keys", str(keys)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^a: until 20\d\d-", said, re.M)
    assert re.search(r"^b: a token is open until 20\d\d-", said, re.M)


# -- joining ----------------------------------------------------------------------------------------------


def test_a_device_joins_and_its_private_keys_stay_with_it(
    keys: Path, gate: Gate, token: Callable[..., Token], tmp_path: Path
) -> None:
    found = join(token(), host="127.0.0.1", port=gate.port, directory=tmp_path / "c", force=False)
    assert (found.name, found.role) == ("pi-3", "device")
    assert abs(found.made - time.time()) < 60
    assert found.coordinator_key == Credentials.load(keys / "coordinator").signing_key.public
    ca, cert = keys / "authority" / "ca.pem", found.certfile
    assert openssl("verify", "-purpose", "sslclient", "-CAfile", ca, cert) == f"{cert}: OK\n"
    entry = Authority.open(keys).devices().by_name["pi-3"]
    assert entry.signing_key == found.signing_key.public
    assert entry.serial == certificate(cert).serial_number
    assert entry.expires == found.expires <= time.time() + 30 * DAY
    for secret in (found.keyfile, found.directory / "signing.pem"):
        for path in keys.rglob("*"):
            assert not path.is_file() or secret.read_bytes() not in path.read_bytes()
    assert gate.said == ["'pi-3' has joined from 127.0.0.1"]  # type: ignore[attr-defined]


def test_a_token_is_used_up_at_its_first_use(gate: Gate, token: Callable[..., Token], tmp_path: Path) -> None:
    once = token()
    join(once, host="127.0.0.1", port=gate.port, directory=tmp_path / "c", force=False)
    with pytest.raises(JoinFailed, match="the gateway says: this token was used before"):
        join(once, host="127.0.0.1", port=gate.port, directory=tmp_path / "d", force=False)
    assert not (tmp_path / "d").exists()


def test_of_two_at_a_time_one_joins(gate: Gate, token: Callable[..., Token], tmp_path: Path) -> None:
    once, outcomes = token(), []

    def attempt(number: int) -> None:
        try:
            join(once, host="127.0.0.1", port=gate.port, directory=tmp_path / str(number), force=False)
            outcomes.append("joined")
        except JoinFailed:
            outcomes.append("refused")

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["joined", *["refused"] * 5]


def test_a_token_runs_out(gate: Gate, token: Callable[..., Token], tmp_path: Path) -> None:
    late = token(hours=0.0001)
    time.sleep(1.5)
    with pytest.raises(JoinFailed, match="this token has run out: ask for a new one"):
        join(late, host="127.0.0.1", port=gate.port, directory=tmp_path / "c", force=False)


def test_a_wrong_secret_is_refused_and_uses_nothing_up(
    gate: Gate, token: Callable[..., Token], tmp_path: Path
) -> None:
    right = token()
    wrong = Token(identifier=right.identifier, secret=bytes(16), fingerprint=right.fingerprint)
    stranger = Token(identifier="0" * 12, secret=right.secret, fingerprint=right.fingerprint)
    for guess in (wrong, stranger):
        with pytest.raises(JoinFailed, match="this token is not known here"):
            join(guess, host="127.0.0.1", port=gate.port, directory=tmp_path / "c", force=False)
    assert join(right, host="127.0.0.1", port=gate.port, directory=tmp_path / "c", force=False).name == "pi-3"


def test_a_gateway_with_another_authority_learns_no_secret(
    gate: Gate, token: Callable[..., Token], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = token()
    asked: list[str] = []
    monkeypatch.setattr(gate_module._Handler, "do_POST", lambda handler: asked.append(handler.path))
    foreign = Token(identifier=right.identifier, secret=right.secret, fingerprint=bytes(32))
    with pytest.raises(JoinFailed, match="is not the gateway that made this token"):
        join(foreign, host="127.0.0.1", port=gate.port, directory=tmp_path / "c", force=False)
    assert asked == []


def test_somebody_in_between_with_a_devices_certificate_learns_no_secret(
    keys: Path, token: Callable[..., Token], tmp_path: Path
) -> None:
    """The authority's certificate is public; only a server's certificate signed by it may take its place."""
    main(["keys", "device", "mallory", "--keys", str(keys)])
    mallory = keys / "devices" / "mallory"

    class Imposter(Authority):
        broker_files = (mallory / "cert.pem", mallory / "key.pem")  # type: ignore[assignment]

    real = Authority.open(keys)
    said: list[str] = []
    imposter = Gate(Imposter(keys, real._issuer), host="127.0.0.1", port=0, say=said.append)
    try:
        with pytest.raises(JoinFailed, match=r"was not signed by the token's authority \(unsuit.*purpose\)"):
            join(token(), host="127.0.0.1", port=imposter.port, directory=tmp_path / "c", force=False)
    finally:
        imposter.close()
    assert said == []


def test_a_name_with_credentials_joins_again_only_with_replace(
    keys: Path, gate: Gate, token: Callable[..., Token], tmp_path: Path
) -> None:
    first, second = token(), token()
    found = join(first, host="127.0.0.1", port=gate.port, directory=tmp_path / "c", force=False)
    with pytest.raises(JoinFailed, match="'pi-3' has credentials already; ask for another token"):
        join(second, host="127.0.0.1", port=gate.port, directory=tmp_path / "d", force=False)
    with pytest.raises(UsageError, match="has credentials already"):
        token()
    again = token(replaces=True)
    with pytest.raises(UsageError, match="is there already: --force puts it aside"):
        join(again, host="127.0.0.1", port=gate.port, directory=tmp_path / "c", force=False)
    join(again, host="127.0.0.1", port=gate.port, directory=tmp_path / "c", force=True)
    (aside,) = tmp_path.glob("c.before-*")
    assert Credentials.load(aside).signing_key.public == found.signing_key.public
    assert listed_serials((keys / "broker" / "crl.pem").read_bytes()) == {
        certificate(aside / "cert.pem").serial_number
    }


def post(gate: Gate, path: str, body: bytes | str, **headers: str) -> tuple[int, bytes]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", gate.port, timeout=10, context=context)
    connection.request("POST", path, body=body, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


def test_garbage_is_answered_with_a_sentence(gate: Gate, token: Callable[..., Token]) -> None:
    right, key = token(), SigningKey.generate()
    request = request_for(new_key())
    whole = {
        "token": right.identifier,
        "secret": right.secret.hex(),
        "request": request.decode(),
        "signing_key": key.public.hex(),
        "proof": key.sign(proof_bytes(right.identifier, request)).hex(),
    }
    wrong: list[bytes] = [
        b"",
        b"{",
        b"[]",
        b"[" * 10_000,
        bytes(range(256)),
        json.dumps({**whole, "secret": 7}).encode(),
        json.dumps({**whole, "request": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA"}).encode(),
        json.dumps({**whole, "signing_key": "zz"}).encode(),
        json.dumps({**whole, "proof": "00" * 64}).encode(),
        json.dumps({**whole, "proof": SigningKey.generate().sign(b"x").hex()}).encode(),
        json.dumps({**whole, "token": "../../authority/key"}).encode(),
    ]
    for body in wrong:
        status, answer = post(gate, "/join", body)
        assert status in (400, 403), body
        assert json.loads(answer)["error"]
    assert post(gate, "/join", b"", **{"Content-Length": "20000"})[0] == 400
    assert post(gate, "/join", b"", **{"Content-Length": "-1"})[0] == 400
    assert post(gate, "/elsewhere", b"{}")[0] == 400
    # After all of that the token is still good.
    assert post(gate, "/join", json.dumps(whole))[0] == 200


def test_whoever_says_nothing_keeps_nobody_out(
    gate: Gate, token: Callable[..., Token], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = [
        socket.create_connection(("127.0.0.1", gate.port)) for _ in range(gate_module.MAX_CONNECTIONS - 2)
    ]
    try:
        found = join(token(), host="127.0.0.1", port=gate.port, directory=tmp_path / "c", force=False)
        assert found.name == "pi-3"
    finally:
        for connection in silent:
            connection.close()


def test_a_connection_is_cut_when_its_time_is_over(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "CONNECTION_S", 0.5)
    started = time.monotonic()
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(("127.0.0.1", gate.port))) as connection:
        connection.settimeout(5.0)
        # A letter now and then keeps any timeout of a single read from ending it.
        while time.monotonic() < started + 5:
            try:
                connection.sendall(b"P")
            except OSError:
                break
            time.sleep(0.1)
    assert 0.4 < time.monotonic() - started < 3


def test_the_commands_from_end_to_end(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["keys", "token", "pi-9", "--keys", str(keys)]) == 0
    captured = capsys.readouterr()
    text = captured.out.strip()
    assert Token.parse(text).text == text
    assert "hedgerow keys join TOKEN --gateway gw.local" in captured.err
    monkeypatch.setattr("sys.stdin", io.StringIO(text + "\n"))
    output = tmp_path / "c"
    assert (
        main(["keys", "join", "-", "--gateway", "127.0.0.1:1", "--output", str(output)])
        == ExitCode.RUN_FAILED
    )
    assert (
        "nothing listens at 127.0.0.1:1: is `hedgerow keys serve` running there?" in capsys.readouterr().err
    )
    served = Gate(Authority.open(keys), host="", port=0, say=print)
    try:
        assert (
            main(["keys", "join", text, "--gateway", f"127.0.0.1:{served.port}", "--output", str(output)])
            == 0
        )
    finally:
        served.close()
    said = capsys.readouterr().out
    assert "this device is 'pi-9' until 20" in said
    assert f"hedgerow client TASK --broker mqtts://127.0.0.1 --credentials {output}" in said


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("gw", ("gw", 8884)),
        ("gw.local:99", ("gw.local", 99)),
        ("[::1]:99", ("::1", 99)),
        ("[::1]", ("::1", 8884)),
    ],
)
def test_a_gateways_place(text: str, place: tuple[str, int]) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["", "gw:", "gw:0", "gw:99999", "::1", "https://gw", "a b"])
def test_a_wrong_place_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="is not HOST or HOST:PORT"):
        parse_place(text)
