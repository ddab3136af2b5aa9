"""The demo's two plans: the pruned federation, and dense float32 FedAvg to compare with."""

from __future__ import annotations

COMMON = """\
[run]
name = "{name}"
rounds = {rounds}
seed = {seed}

[cohort]
min_clients = {clients}
quorum = 0.6
deadline_s = 60.0
grace_s = 10.0
join_timeout_s = 60.0

[training]
epochs = 2
batch_size = 16
learning_rate = 0.1

[evaluate]
data = "evaluate.npz"

"""

PRUNED = """\
[pruning]
budget = "erk"
schedule = "cubic"
density = 0.2
start_round = 2
end_round = {end_round}
"""

DENSE = """\
[codec.uplink]
codec_id = "float32"

[codec.downlink]
codec_id = "float32"

[pruning]
policy = "none"
"""


def pruned_plan(*, rounds: int, clients: int, seed: int) -> str:
    """Return the plan of the demo: cubic pruning to density 0.2, coded updates both ways."""
    text = COMMON.format(name="demo", rounds=rounds, clients=clients, seed=seed)
    return text + PRUNED.format(end_round=max(2, rounds * 6 // 10))


def dense_plan(*, rounds: int, clients: int, seed: int) -> str:
    """Return the same training without pruning, with plain float32 both ways: FedAvg."""
    return COMMON.format(name="demo-dense", rounds=rounds, clients=clients, seed=seed) + DENSE
