from __future__ import annotations

import pytest

from hedgerow_transport import LinkOverflow
from hedgerow_transport.outbox import Outbox, Outgoing


def message(name: str, qos: int) -> Outgoing:
    return Outgoing(topic="t", payload=name.encode(), retain=False, qos=qos)


def send_all(outbox: Outbox, *, window: int = 8) -> list[str]:
    sent = []
    while (taken := outbox.take(window=window)) is not None:
        outbox.sent(taken, len(sent))
        sent.append(taken.payload.decode())
    return sent


def test_the_window_holds_back_in_order() -> None:
    outbox = Outbox(max_bytes=1000)
    for name, qos in (("a", 1), ("b", 0), ("c", 1), ("d", 1), ("e", 0)):
        outbox.put(message(name, qos))
    assert send_all(outbox, window=2) == ["a", "b", "c"]
    acknowledged = outbox.acknowledge(0)
    assert acknowledged is not None
    assert acknowledged.payload == b"a"
    assert outbox.acknowledge(0) is None
    assert not outbox.is_empty


def test_a_loss_drops_qos_0_and_repeats_qos_1_oldest_first() -> None:
    outbox = Outbox(max_bytes=1000)
    for name, qos in (("a", 1), ("b", 1), ("c", 1), ("d", 0)):
        outbox.put(message(name, qos))
    send_all(outbox, window=2)
    outbox.rewind()
    assert send_all(outbox) == ["a", "b", "c"]


def test_only_the_oldest_is_blamed_and_given_up_at_the_fifth_loss() -> None:
    outbox = Outbox(max_bytes=1000)
    for name in "abc":
        outbox.put(message(name, 1))
    sent = []
    for _ in range(6):
        sent.append(send_all(outbox))
        outbox.rewind()
    assert sent == [["a", "b", "c"]] * 5 + [["b", "c"]]


def test_bytes_are_bounded_and_given_back() -> None:
    outbox = Outbox(max_bytes=20)  # a packet of one letter has 6 bytes at QoS 0, 8 at QoS 1
    outbox.put(message("a", 1))
    outbox.put(message("b", 0))
    outbox.put(message("c", 0))
    with pytest.raises(LinkOverflow) as caught:
        outbox.put(message("d", 0))
    assert (caught.value.queued_bytes, caught.value.max_queued_bytes) == (20, 20)
    send_all(outbox)
    outbox.put(message("d", 0))  # b and c are gone, a still counts
    outbox.put(message("e", 0))
    with pytest.raises(LinkOverflow):
        outbox.put(message("f", 0))
    outbox.acknowledge(0)
    outbox.put(message("f", 1))
