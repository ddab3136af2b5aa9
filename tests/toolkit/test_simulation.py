"""The in-memory federation: it ends, it repeats itself to the bit, and it never stands still unnoticed."""

import numpy as np
import pytest

from hedgerow.errors import HedgerowError
from hedgerow.simulation import MAX_IDLE_LOOKS, Simulation
from hedgerow_codecs import Layout, TensorSpec
from hedgerow_coordinator import Coordinator, RunStore, parse_plan
from hedgerow_edge_client import TrainResult

LAYOUT = Layout(
    tensors=(
        TensorSpec(name="a.weight", shape=(8, 6), kind="linear", prunable=True),
        TensorSpec(name="a.bias", shape=(8,), kind="bias", prunable=False),
    )
)
PLAN = b"""
[run]
name = "t"
rounds = 3
[cohort]
min_clients = 3
deadline_s = 60.0
max_failed_attempts = 2
[pruning]
density = 0.6
end_round = 3
[codec.uplink]
codec_id = "uniform"
[codec.downlink]
codec_id = "uniform"
"""


class Trainers:
    def __init__(self, *, failing=()):
        self.failing = failing
        self.asked = []

    def train(self, requests):
        self.asked.append([name for name, _ in requests])
        return ["no data" if name in self.failing else self._result(request) for name, request in requests]

    @staticmethod
    def _result(request):
        steps = np.random.default_rng(request.seed).integers(-8, 9, request.weights.size)
        weights = request.weights + np.where(request.live, steps / 1024, 0).astype(np.float32)
        return TrainResult(weights=weights, num_samples=4, loss=1.0, accuracy=None, steps=1, seconds=0.0)


@pytest.fixture
def make_simulation(tmp_path):
    stores, plan = [], parse_plan(PLAN)

    def make(*, clients="abc", trainers=None, notices=None):
        store = RunStore.create(
            tmp_path / f"run{len(stores)}", plan_bytes=plan.source, template_bytes=b"x", run_id="t"
        )
        stores.append(store)
        return Simulation(
            lambda read_traffic: Coordinator(
                plan,
                layout=LAYOUT,
                store=store,
                first_weights=lambda: None,
                evaluate=None,
                read_traffic=read_traffic,
            ),
            clients=clients,
            layout=LAYOUT,
            namespace="default",
            trainers=trainers or Trainers(),
            on_notice=(lambda notice: None) if notices is None else notices.append,
        )

    yield make
    for store in stores:
        store.close()


def test_all_clients_train_together_in_each_round(make_simulation):
    trainers, notices = Trainers(), []
    simulation = make_simulation(clients="cab", trainers=trainers, notices=notices)
    simulation.run()
    assert trainers.asked == [["a", "b", "c"]] * 3
    assert simulation.coordinator.failure is None
    assert simulation.coordinator.state.version == 3
    assert sum("/3  3/3 clients" in notice for notice in notices) == 3
    # Nothing has to be waited for but the merging of requests.
    assert simulation.now < 1.0


def test_the_same_simulation_gives_the_same_weights_and_bytes(make_simulation):
    first, second = make_simulation(), make_simulation(clients="bca")
    first.run()
    second.run()
    assert first.coordinator.state.weights.tobytes() == second.coordinator.state.weights.tobytes()
    assert first.received_bytes() == second.received_bytes()
    assert first.coordinator_bytes() == second.coordinator_bytes()


def test_what_one_side_sends_the_other_receives(make_simulation):
    simulation = make_simulation(clients="abc")
    simulation.run()
    received = simulation.received_bytes()
    assert received["a"] == received["b"] == received["c"]
    # Broadcasts reach three, answers one: three times what was sent is more than what arrived.
    totals = simulation.coordinator_bytes()
    assert totals["sent"] < sum(received.values()) < 3 * totals["sent"]


def test_a_simulation_in_which_nobody_can_train_ends_with_the_reason(make_simulation):
    notices = []
    simulation = make_simulation(trainers=Trainers(failing="abc"), notices=notices)
    simulation.run()
    assert simulation.coordinator.failure.endswith("a says: no data")
    # The manifest has room for 80 bytes of it.
    told = "a left: run 't' failed: round 1 failed in 2 attempts: 0 of 3 clients answered, the quorum is 2"
    assert any(notice.startswith(told) and notice.endswith("…") for notice in notices)


def steps(simulation, count):
    for _ in range(count):
        simulation.step()


def test_a_clock_that_stands_still_is_a_fault_that_is_named(make_simulation, monkeypatch):
    simulation = make_simulation(clients="a")
    simulation.start()
    monkeypatch.setattr(Coordinator, "wake_at", property(lambda self: 0.0))
    with pytest.raises(HedgerowError, match=r"the clock stands still at 0.0 s in phase 'gather'"):
        steps(simulation, MAX_IDLE_LOOKS + 100)


def test_a_simulation_in_which_nothing_will_ever_happen_is_named(make_simulation, monkeypatch):
    simulation = make_simulation(clients="a")
    simulation.start()
    monkeypatch.setattr(Coordinator, "wake_at", property(lambda self: None))
    with pytest.raises(HedgerowError, match="the simulation stands still in phase 'gather'"):
        steps(simulation, 100)
