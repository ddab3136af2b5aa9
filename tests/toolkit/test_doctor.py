"""The doctor: what counts as a failure for which role, and what it says about a broker."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

import hedgerow_devices
from hedgerow import diagnosis
from hedgerow.diagnosis import check_broker, for_role, judge_broker, lines_of
from hedgerow.main import main
from hedgerow_devices import Check
from hedgerow_transport import BrokerFacts, start_broker

PYTHON = Check(name="python", ok=True, detail="Python 3.11.7.")
NO_TORCH = Check(name="torch", ok=None, detail="torch is not installed.", remedy="pip install it")
BAD_TORCH = Check(name="torch", ok=False, detail="torch 2.10.0 dies at import.", remedy="Install 2.9.1.")
NO_ONNX = Check(name="onnx", ok=None, detail="Not installed.", remedy="pip install it")
FULL_DISK = Check(name="disk", ok=False, detail="Only 3 MiB free.", remedy="Delete something.")
LOW_MEMORY = Check(name="memory", ok=False, detail="200 MiB free.", remedy="Add swap.")


@pytest.fixture(autouse=True)
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "installed_torch", lambda: (None, None))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """Return the list of what this machine's checks say, to be changed."""
    checks = [PYTHON, NO_TORCH, NO_ONNX]
    monkeypatch.setattr(hedgerow_devices, "run_checks", lambda **settings: tuple(checks))
    return checks


def verdicts(role: str | None, *checks: Check) -> list[bool | None]:
    return [check.ok for check in for_role(checks, role=role)]


# -- roles --------------------------------------------------------------------------------------------


def test_what_is_missing_is_a_note_without_a_role() -> None:
    assert verdicts(None, PYTHON, NO_TORCH, NO_ONNX, BAD_TORCH) == [True, None, None, False]


def test_a_client_needs_torch_and_no_onnx() -> None:
    assert verdicts("client", PYTHON, NO_TORCH, NO_ONNX) == [True, False, None]


def test_a_gateway_needs_onnx_and_no_torch() -> None:
    assert verdicts("gateway", PYTHON, NO_TORCH, NO_ONNX) == [True, None, False]


def test_both_need_both() -> None:
    assert verdicts("all", PYTHON, NO_TORCH, NO_ONNX) == [True, False, False]


def test_a_gateway_does_not_train() -> None:
    assert verdicts("gateway", BAD_TORCH, LOW_MEMORY, FULL_DISK) == [None, None, False]
    (check,) = for_role([BAD_TORCH], role="gateway")
    assert check.detail == "torch 2.10.0 dies at import. A gateway does not train."


def test_a_torch_with_a_drawback_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "installed_torch", lambda: ("2.11.0", "13.0"))
    cuda = Check(name="torch", ok=None, detail="torch 2.11.0 is a CUDA build.", remedy="Install 2.9.1.")
    assert verdicts("client", cuda) == [None]


# -- brokers ------------------------------------------------------------------------------------------


def test_no_broker_is_a_note_that_says_how() -> None:
    check = check_broker(None)
    assert check.ok is None
    assert check.remedy == "To check one: hedgerow doctor --broker mqtt://HOST:1883"


def test_a_broker_that_is_not_there_fails() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        check = check_broker(f"mqtt://user:secret@127.0.0.1:{taken.getsockname()[1]}")
    assert check.ok is False
    assert check.detail.startswith("Nothing listens at 127.0.0.1:")
    assert "secret" not in check.detail + check.remedy


def test_a_url_that_is_none_fails_with_an_example() -> None:
    check = check_broker("gateway.local")
    assert check.ok is False
    assert "write it like mqtt://host:1883" in check.detail


def test_a_broker_with_small_packets_is_a_note_with_the_number() -> None:
    facts = BrokerFacts(reachable=True, protocol="5", max_packet_bytes=20_000)
    check = judge_broker(facts, place="b:1883")
    assert check.ok is None
    assert check.detail == "b:1883 speaks MQTT 5 and takes packets of 20,000 bytes."
    assert check.remedy == "The coordinator will send chunks of 19456 bytes."
    tiny = judge_broker(replace(facts, max_packet_bytes=1000), place="b:1883")
    assert tiny.remedy.startswith("Raise the broker's limit")


@pytest.mark.parametrize("limit", [None, 49_152 + 257])
def test_a_broker_that_fits(limit: int | None) -> None:
    facts = BrokerFacts(reachable=True, protocol="3.1.1", max_packet_bytes=limit)
    assert judge_broker(facts, place="b:1883").ok is True


def test_a_broker_without_retained_messages_cannot_be_helped() -> None:
    facts = BrokerFacts(reachable=False, protocol="5", reason="the broker keeps no retained messages")
    check = judge_broker(facts, place="b:1883")
    assert check.detail == "The broker keeps no retained messages."
    assert check.remedy == "Use another broker, such as Mosquitto."


def test_a_real_broker_passes(tmp_path: Path) -> None:
    with start_broker(directory=tmp_path) as broker:
        check = check_broker(broker.url)
    assert check.ok is True
    assert "speaks MQTT" in check.detail


# -- what is printed ----------------------------------------------------------------------------------


def test_a_line_for_each_check_and_the_remedy_below() -> None:
    assert lines_of([PYTHON, FULL_DISK, NO_TORCH]) == [
        "ok    python  Python 3.11.7.",
        "FAIL  disk    Only 3 MiB free.",
        "              Delete something.",
        "note  torch   torch is not installed.",
        "              pip install it",
        "",
        "1 of 3 checks failed",
    ]


def test_notes_alone_are_exit_code_0(machine: list[Check], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no check failed"


def test_a_failure_is_exit_code_5(machine: list[Check], capsys: pytest.CaptureFixture[str]) -> None:
    machine.append(FULL_DISK)
    assert main(["doctor"]) == 5
    assert "FAIL  disk" in capsys.readouterr().out


def test_the_role_decides(machine: list[Check]) -> None:
    assert main(["doctor", "--role", "client"]) == 5
    machine.remove(NO_TORCH)
    assert main(["doctor", "--role", "client"]) == 0
    assert main(["doctor", "--role", "gateway"]) == 5


def test_json(machine: list[Check], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--role", "all"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == 2
    assert found["checks"][1] == {
        "name": "torch", "status": "FAIL", "detail": "torch is not installed.", "remedy": "pip install it"
    }  # fmt: skip
    assert [check["status"] for check in found["checks"]] == ["ok", "FAIL", "FAIL", "note"]


def test_the_folder_and_the_environment_are_handed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, object] = {}

    def run_checks(**settings: object) -> tuple[Check, ...]:
        given.update(settings)
        return ()

    monkeypatch.setattr(hedgerow_devices, "run_checks", run_checks)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert main(["doctor", "--data", str(tmp_path)]) == 0
    assert given["directory"] == tmp_path
    assert given["environ"]["OMP_NUM_THREADS"] == "64"  # type: ignore[index]
