import pytest

from hedgerow_devices import Decision, DeviceError, Governor, Limits, LimitsError, Readings


def decide(readings: Readings, previous: Decision | None = None, **limits: object) -> Decision:
    return Governor(Limits(**limits)).decide(readings, previous=previous)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 3)])
def test_silent_probes_stop_nothing_and_one_core_is_left_free(cores, threads):
    assert decide(Readings(cores=cores)) == Decision(go=True, threads=threads)


def test_threads_of_the_limits_win():
    assert decide(Readings(cores=4), threads=4).threads == 4


def test_pause_at_80_degrees_not_below():
    assert decide(Readings(temperature_c=79.9)).go
    paused = decide(Readings(temperature_c=80.0))
    assert not paused.go
    assert paused.cause == "heat"
    assert paused.retry_s == 30.0
    assert paused.reason == "The processor is at 80.0 °C; training waits until it is below 70 °C."


def test_after_a_pause_for_heat_it_must_cool_below_70():
    paused = decide(Readings(temperature_c=85.0))
    assert not decide(Readings(temperature_c=70.0), paused).go
    assert decide(Readings(temperature_c=69.9), paused).go


def test_a_pause_for_another_cause_needs_no_cooling():
    paused = decide(Readings(battery=5.0, discharging=True))
    assert paused.cause == "battery"
    assert decide(Readings(temperature_c=75.0, battery=50.0, discharging=True), paused).go


def test_throttled_now_pauses_and_throttled_earlier_does_not():
    paused = decide(Readings(throttled=0x50005))
    assert paused.cause == "throttled"
    assert paused.reason == (
        "The Raspberry Pi reports under-voltage and throttled; training waits until that ends."
    )
    assert decide(Readings(throttled=0x50000)).go


def test_low_battery_pauses_only_while_it_feeds_the_device():
    assert not decide(Readings(battery=19.9, discharging=True)).go
    assert decide(Readings(battery=19.9, discharging=False)).go
    assert decide(Readings(battery=20.0, discharging=True)).go


def test_little_memory_pauses():
    paused = decide(Readings(available_mib=255), retry_s=5.0)
    assert (paused.go, paused.cause, paused.retry_s) == (False, "memory", 5.0)
    assert "255 MiB" in paused.reason
    assert decide(Readings(available_mib=256)).go


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_temperature_c": 60.0}, "max_temperature_c 60.0"),
        ({"max_temperature_c": float("nan")}, "max_temperature_c nan"),
        ({"min_battery": 101.0}, "min_battery 101.0"),
        ({"min_battery": -1.0}, "min_battery -1.0"),
        ({"min_available_mib": -1}, "min_available_mib -1"),
        ({"threads": 0}, "threads 0"),
        ({"retry_s": 0.0}, "retry_s 0.0"),
        ({"retry_s": float("inf")}, "retry_s inf"),
    ],
)
def test_impossible_limits_are_refused_by_name(limits, named):
    with pytest.raises(LimitsError, match=named) as caught:
        Limits(**limits)
    assert isinstance(caught.value, DeviceError)
