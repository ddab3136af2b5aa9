"""What a device tells of what it does: nothing in short rounds, the truth in long ones."""

from hedgerow_edge_client.device_state import TOLD_AFTER_S, Doing, StateTeller
from hedgerow_transport import DeviceState, Topics, decode_message

WAITING, TRAINING = Doing(state="waiting"), Doing(state="training", round=3)
PAUSED = Doing(state="paused", round=3, reason="it is 84 °C")


def teller() -> StateTeller:
    return StateTeller("pi", topics=Topics("farm"), session=7)


def test_a_state_is_told_once_when_it_has_lasted() -> None:
    tell = teller()
    assert tell.look(TRAINING, now=10.0, unix=1000.5) is None
    assert tell.look(TRAINING, now=10.0 + TOLD_AFTER_S - 0.1, unix=0.0) is None
    said = tell.look(TRAINING, now=10.0 + TOLD_AFTER_S, unix=0.0)
    assert said is not None
    assert (said.topic, said.retain) == ("hedgerow/1/farm/up/pi/state", True)
    assert decode_message(said.payload, DeviceState) == DeviceState(
        session=7, state="training", round=3, at=1000
    )
    # Small enough to be told from each of a thousand devices.
    assert len(said.payload) < 40
    assert tell.look(TRAINING, now=900.0, unix=0.0) is None


def test_short_rounds_and_waiting_cost_nothing() -> None:
    tell = teller()
    assert tell.look(WAITING, now=1e6, unix=0.0) is None
    for number in range(1, 100):
        doing = Doing(state="training" if number % 2 else "sending", round=number)
        assert tell.look(doing, now=number * (TOLD_AFTER_S - 1), unix=0.0) is None
    assert tell.repeat() is None


def test_the_end_of_a_long_state_is_told_too() -> None:
    tell = teller()
    tell.look(PAUSED, now=0.0, unix=50.0)
    paused = tell.look(PAUSED, now=40.0, unix=90.0)
    assert paused is not None
    assert decode_message(paused.payload, DeviceState).reason == "it is 84 °C"
    again = tell.repeat()
    assert again == paused
    tell.look(WAITING, now=41.0, unix=91.0)
    # It was short: what was told is true again.
    assert tell.look(PAUSED, now=42.0, unix=92.0) is None
    assert tell.look(WAITING, now=50.0, unix=100.0) is None
    over = tell.look(WAITING, now=80.0, unix=130.0)
    assert over is not None
    assert decode_message(over.payload, DeviceState).state == "waiting"
    assert tell.repeat() is None
