from __future__ import annotations

import queue

import pytest

from hedgerow_transport import (
    Connected,
    Disconnected,
    LinkClosed,
    LinkEvent,
    MemoryHub,
    MemoryLink,
    Received,
    TopicError,
    Will,
)


def events(link: MemoryLink) -> list[LinkEvent]:
    found: list[LinkEvent] = []
    while True:
        try:
            found.append(link.events.get_nowait())
        except queue.Empty:
            return found


def test_delivery_is_at_once_and_in_order() -> None:
    hub = MemoryHub()
    a, b = hub.connect("a", ["x/+"]), hub.connect("b", ["x/#", "x/1"])
    a.publish("x/1", b"1")
    b.publish("x/2/3", b"2", qos=1)
    assert events(a) == [Connected(), Received("x/1", b"1")]
    assert events(b) == [Connected(), Received("x/1", b"1"), Received("x/2/3", b"2")]


def test_retained_messages_wait_for_subscribers() -> None:
    hub = MemoryHub()
    a = hub.connect("a")
    a.publish("s/2", b"old", retain=True)
    a.publish("s/2", b"new", retain=True)
    a.publish("s/1", b"1", retain=True)
    a.publish("s/3", b"x", retain=True)
    a.publish("s/3", b"", retain=True)
    late = hub.connect("b", ["s/+"])
    assert events(late) == [Connected(), Received("s/1", b"1", True), Received("s/2", b"new", True)]
    a.publish("s/1", b"2", retain=True)
    assert events(late) == [Received("s/1", b"2", False)]
    assert hub.retained("s/2") == b"new"
    assert hub.retained("s/3") is None


def test_a_will_fires_on_a_drop_and_not_on_a_farewell() -> None:
    hub = MemoryHub()
    watcher = hub.connect("w", ["p/#"])
    for name in ("a", "b"):
        link = hub.connect(name, will=Will(topic=f"p/{name}", payload=b"gone"))
        if name == "a":
            link.drop()
        else:
            link.close()
    assert events(watcher) == [Connected(), Received("p/a", b"gone")]
    assert hub.retained("p/a") == b"gone"


def test_offline_qos_0_is_dropped_and_qos_1_waits() -> None:
    hub = MemoryHub()
    a, b = hub.connect("a"), hub.connect("b", ["#"])
    a.drop("no signal")
    a.publish("x", b"lost")
    a.publish("x", b"kept", qos=1)
    assert not a.flush(0)
    a.reconnect()
    assert events(a) == [Connected(), Disconnected("no signal"), Connected()]
    assert events(b) == [Connected(), Received("x", b"kept")]
    assert a.flush(0)


def test_reconnect_brings_retained_messages_again() -> None:
    hub = MemoryHub()
    hub.connect("a").publish("m", b"1", retain=True)
    b = hub.connect("b", ["m"])
    b.drop()
    b.reconnect()
    assert events(b).count(Received("m", b"1", True)) == 2


def test_takeover_is_fatal_for_the_first() -> None:
    hub = MemoryHub()
    first = hub.connect("a", ["#"], will=Will(topic="p/a", payload=b"gone"))
    second = hub.connect("a", ["p/a"])
    assert events(first)[-1] == Disconnected("another client with the same name has connected", True)
    assert events(second) == [Connected(), Received("p/a", b"gone", True)]
    first.close()
    assert second.connected


def test_faults_are_injected() -> None:
    hub = MemoryHub(
        drop=lambda topic, payload, receiver: receiver == "b" and payload == b"1",
        duplicate=lambda topic, payload, receiver: payload == b"2",
    )
    a, b = hub.connect("a", ["x"]), hub.connect("b", ["x"])
    for payload in (b"1", b"2"):
        a.publish("x", payload)
    assert [e.payload for e in events(a) if isinstance(e, Received)] == [b"1", b"2", b"2"]
    assert [e.payload for e in events(b) if isinstance(e, Received)] == [b"2", b"2"]


def test_subscriptions_change() -> None:
    hub = MemoryHub()
    a = hub.connect("a")
    a.publish("x/1", b"r", retain=True)
    a.subscribe(["x/+"])
    a.publish("x/2", b"2")
    a.unsubscribe(["x/+"])
    a.publish("x/3", b"3")
    assert events(a) == [Connected(), Received("x/1", b"r", True), Received("x/2", b"2")]


def test_wrong_topics_and_closed_links_are_refused() -> None:
    hub = MemoryHub()
    link = hub.connect("a")
    for topic in ("", "a/+", "#", "a\0"):
        with pytest.raises(TopicError):
            link.publish(topic, b"")
    for wish in ("", "a#", "#/a", "a+/b"):
        with pytest.raises(TopicError):
            hub.connect("b", [wish])
    link.close()
    link.close()
    with pytest.raises(LinkClosed):
        link.publish("x", b"")


def test_traffic_counts_packets_by_kind_both_ways() -> None:
    hub = MemoryHub()
    a, b = hub.connect("a"), hub.connect("b", ["#"])
    a.publish("hedgerow/1/n/need", bytes(10))
    a.publish("hedgerow/1/n/up/a/offer", bytes(10), qos=1)
    a.publish("elsewhere", b"")
    expected = {
        "need": {"messages": 1, "bytes": 2 + 2 + 17 + 10},
        "offer": {"messages": 1, "bytes": 2 + 2 + 23 + 2 + 10},
        "other": {"messages": 1, "bytes": 2 + 2 + 9},
    }
    assert a.traffic.snapshot() == {"sent": expected, "received": {}}
    assert b.traffic.snapshot() == {"sent": {}, "received": expected}
    assert a.traffic.sent_bytes == b.traffic.received_bytes == 83
