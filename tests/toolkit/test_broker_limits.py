"""What public brokers allow, held against what coordinator, client and onlooker really ask of one.

AWS IoT Core: 8 filters in a SUBSCRIBE, 7 slashes and 256 bytes in a topic, 128 bytes in a client's name. EMQX
Serverless: 10 subscriptions of a client, 10 levels. What is held here: 8 filters, 7 levels (6 slashes).
"""

from __future__ import annotations

import inspect
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hedgerow.main import main
from hedgerow.runs import read_template
from hedgerow_coordinator import CoordinatorAgent, load_plan, open_run
from hedgerow_edge_client import ClientAgent, ClientSettings
from hedgerow_transport import (
    TOPIC_ROOT,
    UP_KINDS,
    BrokerFacts,
    BrokerUnreachable,
    Credentials,
    Topics,
    Will,
    parse_topic,
)

MAX_FILTERS, MAX_LEVELS, MAX_TOPIC_BYTES, MAX_CLIENT_ID_BYTES = 8, 7, 256, 128
NAMESPACE, NAME = "n" * 32, "c" * 32


class Asked(BrokerUnreachable):
    """Ends an agent at its first link."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the next link was asked for."""
    found: dict[str, Any] = {}

    def link(url: str, **options: Any) -> None:
        found.update(options)
        raise Asked("enough")

    for module in ("hedgerow_edge_client.agent", "hedgerow_coordinator.agent", "hedgerow_transport"):
        monkeypatch.setattr(f"{module}.MqttLink", link)
    monkeypatch.setattr("hedgerow_coordinator.agent.ask_broker", lambda url: BrokerFacts(reachable=True))
    return found


def check(asked: dict[str, Any]) -> None:
    filters = tuple(asked["filters"])
    assert 1 <= len(set(filters)) == len(filters) <= MAX_FILTERS
    assert max(len(wish.split("/")) for wish in filters) <= MAX_LEVELS
    # Everything is below one root, so that a broker's rights can be given for it; nothing is asked of others.
    assert all(wish.startswith(f"{TOPIC_ROOT}/") and "#" not in wish for wish in filters)
    assert len(asked["client_id"].encode()) <= MAX_CLIENT_ID_BYTES
    if "will" in asked:
        will = asked["will"]()
        assert isinstance(will, Will)
        assert parse_topic(will.topic) is not None


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    assert main(["keys", "init", str(tmp_path / "keys")]) == 0
    assert main(["keys", "device", NAME, "--keys", str(tmp_path / "keys")]) == 0
    return tmp_path / "keys"


@pytest.mark.parametrize("signed", [False, True])
def test_a_client_is_within_the_limits(
    asked: dict[str, Any], task: Path, tmp_path: Path, keys: Path, signed: bool
) -> None:
    settings = ClientSettings(
        task=task,
        broker="mqtt://127.0.0.1:1",
        data=None,
        name=NAME,
        directory=tmp_path / "state",
        namespace=NAMESPACE,
        credentials=Credentials.load(keys / "devices" / NAME) if signed else None,
    )
    with pytest.raises(Asked):
        ClientAgent(settings, say=print).run(threading.Event())
    check(asked)


@pytest.mark.parametrize("signed", [False, True])
def test_a_coordinator_is_within_the_limits(
    asked: dict[str, Any], initialised: Path, tmp_path: Path, keys: Path, signed: bool
) -> None:
    folder = Path(shutil.copytree(initialised, tmp_path / "plan"))
    text = (folder / "plan.toml").read_text()
    assert 'namespace = "default"' in text
    (folder / "plan.toml").write_text(text.replace('namespace = "default"', f'namespace = "{NAMESPACE}"'))
    plan = load_plan(folder / "plan.toml")
    template, layout = read_template(plan)
    credentials = Credentials.load(keys / "coordinator") if signed else None
    with open_run(plan, directory=tmp_path / "run", template=template, run_id="r" * 64) as store:
        agent = CoordinatorAgent(
            plan,
            broker="mqtt://127.0.0.1:1",
            store=store,
            layout=layout,
            say=print,
            credentials=credentials,
        )
        with pytest.raises(Asked):
            agent.run(threading.Event())
    check(asked)


def test_whoever_looks_on_is_within_the_limits(asked: dict[str, Any]) -> None:
    assert main(["devices", "--namespace", NAMESPACE]) == 3
    check(asked)


def test_every_topic_that_there_is_is_within_the_limits() -> None:
    topics = Topics(NAMESPACE)
    made: dict[str, Callable[[], list[str]]] = {
        "manifest": lambda: [topics.manifest],
        "coordinator": lambda: [topics.coordinator],
        "delivery": lambda: [topics.delivery],
        "need": lambda: [topics.need],
        "blob": lambda: [topics.blob(bytes(16))],
        "up": lambda: [topics.up(NAME, kind) for kind in UP_KINDS],
        "down": lambda: [topics.down(NAME)],
        "presence": lambda: [topics.presence(NAME)],
    }
    public = {name for name, _ in inspect.getmembers(Topics) if not name.startswith("_")}
    others = {
        "namespace",
        "parse",
        "client_filters",
        "coordinator_filters",
        "deliverer_filters",
        "presence_filter",
        "state_filter",
        "births",
    }
    # A topic that is new must be added here.
    assert public == made.keys() | others
    for topic in (topic for make in made.values() for topic in make()):
        assert len(topic.split("/")) <= MAX_LEVELS
        assert len(topic.encode()) <= MAX_TOPIC_BYTES
