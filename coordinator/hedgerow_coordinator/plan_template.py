"""The plan.toml that `hedgerow init` writes: every key, its default and what it does."""

import json

_TEMPLATE = """\
# The plan of a federated run. The coordinator reads it at the start and keeps a copy in the run directory.

[run]
name = "{name}"
rounds = {rounds}
seed = 7                     # of everything random: first weights, cohorts, batches

[model]
template = "template.onnx"   # written by `hedgerow init`; relative to this file
init = "{init}"{gap}# first weights: "seeded" (from the seed), "template" (those it holds), or
#                            # "pretrained" (those it holds, trained elsewhere)
freeze = {freeze}{freeze_gap}# tensors or layers that stay as they are: "conv1", "layer?.*"

[cohort]
min_clients = {min_clients}              # wait for so many before round 1
clients_per_round = 0        # 0 = everybody who is there, at most 120
quorum = 0.6                 # a round needs the updates of this share of its cohort
deadline_s = 600.0           # a round ends at the latest after this time
grace_s = 30.0               # once the quorum is there, wait so long for the others
join_timeout_s = 600.0       # give up when too few clients come in this time; 0 = wait for ever
max_failed_attempts = 3      # give up after so many attempts at one round without a quorum

[training]                   # on the devices: plain SGD
epochs = 1
batch_size = 32
learning_rate = 0.05
learning_rate_decay = 1.0    # factor per round
momentum = 0.0
weight_decay = 0.0
proximal_mu = 0.0            # FedProx: pull towards the global model, for very unequal data
max_seconds = 0.0            # a device stops training after this time; 0 = no limit

[aggregation]
optimizer = "sgd"            # "adam" is FedAdam, for which a server_learning_rate of 0.01 is usual
server_learning_rate = 1.0   # "sgd" with 1 and no momentum is FedAvg
server_momentum = 0.0        # FedAvgM; 0.5 makes the first rounds count for more
ema = 0.0                    # 0.5 measures and exports a moving average of the weights in their place
outlier_ratio = 10.0         # an update is left out that is so many times as large as the others' median, and
#                            # larger than the model; 0 takes all

[codec]
feedback = "residual"        # what the uplink's codec leaves out: "residual" adds it to the next update,
#                            # "none" forgets it, "ef21" sends differences and keeps up to one model for each
#                            # device on the coordinator's disk
residual_decay = 1.0         # share of what is owed that "residual" adds; 0.5 for steps of 4 and more

[codec.uplink]               # how updates are coded on the way to the coordinator
codec_id = "deadzone"        # others: trellis, topk, ternary, randk, uniform, integer, fp16, float32
# step = 2.0                 # in root mean squares of an update; larger sends fewer bytes; [8.0, 2.0] is
#                            # 8 in the first 60 % of the rounds, 2 in the last 30 %
# deadzone = 0.6             # half-width of what becomes zero, in steps
# tradeoff = 0.18            # leaves codes out where a bit is worth more than their error; 0 keeps all

[codec.downlink]             # how the new model is coded on the way to the devices
codec_id = "deadzone"

[pruning]
policy = "server"            # "none" keeps every weight; `hedgerow policies` lists what else can stand here
score = "magnitude"          # what a weight is worth
budget = "erk"               # how many each tensor keeps: "erk", "uniform" or "global"
schedule = "cubic"           # "cubic", "one-shot" (at start_round) or "constant" (from round 1)
density = {density:<18} # live weights over all parameters at the end
initial_density = 1.0        # the same before start_round
start_round = {start_round}
end_round = {end_round}
every = 1                    # rounds from one change of the mask to the next
protect = []                 # names of tensors that are never pruned
# regrow = 0.1               # share of the live weights that a change swaps for pruned ones, at first
# grow = "update"            # by which score pruned weights come back
# tolerance = 0.02           # hold the density when the metric falls so far below its best

[evaluate]
{data}
metric = "{metric}"
every = 1                    # measure after every so many rounds, and after the last one

[transport]
namespace = "default"        # runs on one broker need different ones
chunk_bytes = {chunk_bytes:<15}# {chunk_reason}
max_kbit_s = 0.0             # rate at which the model is broadcast; 0 = as fast as the link goes
"""


def plan_template(
    *,
    name: str,
    rounds: int = 20,
    min_clients: int = 5,
    has_test_data: bool = False,
    metric: str = "accuracy",
    init: str = "seeded",
    freeze: tuple[str, ...] = (),
    density: float = 0.2,
    chunk_bytes: int = 49152,
    chunk_reason: str = "fits brokers that take packets of at most 64 kB",
) -> str:
    """Write a commented plan that `parse_plan` reads back.

    Parameters
    ----------
    name : str
        Of the run; see `RunSettings`.
    rounds : int
        From 1. Pruning ends after 70 % of them, so that the pruned model trains on.
    min_clients : int
        From 1.
    has_test_data : bool
        Whether there is an ``evaluate.npz`` beside the plan.
    metric : str
        The metric's name.
    init : str
        Where the first weights come from; see `ModelSettings`.
    freeze : tuple[str, ...]
        Patterns of tensors that are not trained.
    density : float
        At the end, in (0, 1]; a small model cannot have the usual one.
    chunk_bytes : int
        Size of a chunk.
    chunk_reason : str
        Why it is that, for the comment behind it.
    """
    start_round = min(2, rounds)
    frozen = json.dumps(freeze, ensure_ascii=False)
    data = 'data = "evaluate.npz"        # arrays `inputs` and `targets`'
    return _TEMPLATE.format(
        name=name,
        rounds=rounds,
        min_clients=min_clients,
        start_round=start_round,
        end_round=max(start_round, rounds * 7 // 10),
        data=data if has_test_data else f"# {data}",
        metric=metric,
        init=init,
        density=density,
        gap=" " * (20 - len(init)),
        freeze=frozen,
        freeze_gap=" " * max(1, 20 - len(frozen)),
        chunk_bytes=chunk_bytes,
        chunk_reason=chunk_reason,
    )
