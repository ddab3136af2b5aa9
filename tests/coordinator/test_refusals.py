"""What a coordinator does about messages that their senders may not say, and clients it does not know."""

from hedgerow_transport import MessageRefused, Presence, Rebirth, SigningKey, Sync, decode_message
from hedgerow_transport.envelope import Envelope


def refusal(sender: str, reason: str) -> MessageRefused:
    return MessageRefused(sender=sender, reason=reason, advice="do something")


def test_a_client_that_a_late_will_has_buried_is_asked_for_its_birth(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=3))
    rig.start()
    rig.until_round(1)
    gone = Presence(client="a", session=99, online=False)
    rig.hub.connect("broker").publish(rig.topics.presence("a"), gone.encode(), retain=True)
    rig.until(lambda: "a is gone" in rig.notices)
    rig.to_end()
    asked = [p for who, p in rig.sent if who == "coordinator" and p.payload == Rebirth().encode()]
    assert [publication.topic for publication in asked] == [rig.topics.down("a")]
    words = [p.payload for who, p in rig.sent if who == "a" and p.topic == rig.topics.presence("a")]
    assert [decode_message(word, Presence).online for word in words] == [True, True, False]
    assert rig.counted() == [(number, name) for number in (1, 2, 3) for name in "abc"]


def test_strangers_are_asked_once_and_not_for_each_message(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1))
    rig.start()
    rig.until_round(1)
    for _ in range(5):
        rig.say(rig.topics.up("x", "sync"), Sync(version=-1, model=bytes(16)).encode())
    rig.to_end()
    asked = [p for who, p in rig.sent if who == "coordinator" and p.payload == Rebirth().encode()]
    assert [publication.topic for publication in asked] == [rig.topics.down("x")]


def test_a_revoked_client_is_waited_for_no_longer(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=2, quorum=0.5, grace_s=1000.0, deadline_s=5000.0))
    rig.silent.add("b")
    rig.start()
    rig.until_round(1)
    rig.coordinator.refuse(refusal("b", "revoked"))
    rig.to_end()
    assert rig.counted() == [(1, "a"), (1, "c"), (2, "a"), (2, "c")]
    assert rig.now < 1000
    assert [e.detail for e in rig.store.events() if e.kind == "refused"] == [
        "refused: the credentials of b are revoked: do something"
    ]


def test_refusals_are_told_once_for_each_sender_and_cause_and_counted(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1))
    before = rig.coordinator.num_ignored
    for reason in ("forged", "forged", "replayed", "forged"):
        rig.coordinator.refuse(refusal("a", reason))
    rig.coordinator.sum_up_refusals()
    assert rig.coordinator.take_notices() == [
        "refused: a message in the name of a is forged: do something",
        "refused: a message of a came again: do something",
        "refused since the start: 3 forged (a), 1 replayed (a)",
    ]
    assert rig.coordinator.num_ignored == before + 4
    assert rig.coordinator.state.version == 0


def test_signed_messages_at_a_coordinator_without_credentials_are_one_sentence(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1))
    rig.start()
    rig.until_round(1)
    key = SigningKey.generate()
    for kind in ("offer", "decline", "sync"):
        topic = rig.topics.up("x", kind)
        rig.say(topic, Envelope(counter=1, issued=1).seal(b"message", topic=topic, key=key))
    rig.to_end()
    said = [notice for notice in rig.notices if "x" in notice.split()]
    assert said == [
        "refused: x signs its messages, and they cannot be read without credentials: "
        "start this coordinator with --credentials keys/coordinator"
    ]


def test_a_birth_that_somebody_has_written_over_is_asked_for(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=1), clients="ab")
    rig.start()
    births = [rig.topics.presence(name) for name in ("x", "y", "a")]
    rig.coordinator.refuse(refusal("x", "forged"), topic=births[0], now=0.0)
    rig.coordinator.refuse(refusal("x", "forged"), topic=births[0], now=1.0)
    # Not whom nobody knows, and not for what has nothing to do with births.
    rig.coordinator.refuse(refusal("y", "stranger"), topic=births[1], now=1.0)
    rig.coordinator.refuse(refusal("y", "forged"), topic=rig.topics.up("y", "offer"), now=1.0)
    asked = [p.topic for p in rig.coordinator.take_publications() if p.payload == Rebirth().encode()]
    assert asked == [rig.topics.down("x")]


def test_a_birth_that_comes_again_has_what_is_retained_said_again(make_plan, make_rig):
    rig = make_rig(make_plan(rounds=2))
    rig.start()
    rig.until_round(1)
    rig.hub.connect("attacker").publish(rig.topics.manifest, b"\xc1 another one", retain=True)
    assert rig.hub.retained(rig.topics.manifest) == b"\xc1 another one"
    again = rig.session("a").presence(online=True)
    sent = len(rig.sent)
    rig.say(again.topic, again.payload)
    rig.say(again.topic, again.payload)
    rig.until(lambda: rig.hub.retained(rig.topics.manifest) != b"\xc1 another one")
    said = [p for who, p in rig.sent[sent:] if who == "coordinator" and p.topic == rig.topics.manifest]
    assert len(said) == 1
    rig.to_end()
