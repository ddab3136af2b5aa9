"""Recipes: published methods, each as a few settings of a plan.

Only methods whose algorithm the policies carry out are here. Weights travel as float32 without error feedback
where the paper sends them so, which makes the bytes comparable; any codec can be put in their place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hedgerow_coordinator.pruning.plan_text import Settings

_AS_FLOATS: Settings = {
    "codec": {"feedback": "none"},
    "codec.uplink": {"codec_id": "float32"},
    "codec.downlink": {"codec_id": "float32"},
}
_DENSE: Settings = {"pruning": {"policy": "none"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A method by its name.

    Parameters
    ----------
    meaning : str
        What it does, in a line.
    source : str
        Whose it is.
    traffic : str
        What it sends beside the updates.
    settings : callable
        From the number of rounds to the settings, by table.
    """

    meaning: str
    source: str
    traffic: str = "nothing"
    settings: Callable[[int], Settings] = field(repr=False)


def _pruned(settings: Mapping[str, object], *, extra: Settings = _AS_FLOATS) -> Settings:
    return {**extra, "pruning": settings}


def _always(settings: Settings) -> Callable[[int], Settings]:
    """Return settings that do not depend on the number of rounds."""
    return lambda _: settings


def _hedgerow(rounds: int) -> Settings:
    codec = {"codec_id": "deadzone", "step": [2.0, 0.25]}
    return {
        "aggregation": {"server_momentum": 0.7},
        "codec": {"residual_decay": 0.5},
        "codec.uplink": codec,
        "codec.downlink": codec,
        "pruning": {"start_round": min(3, rounds), "end_round": min(rounds, max(3, round(0.7 * rounds)))},
    }


def _feddst(rounds: int) -> Settings:
    # The released code: alpha 0.01 and 15 rounds from change to change at 80 %, of 400 to 1600 rounds, and
    # a cosine to 0 at half of them. A short run has changes as well.
    half = max(4, rounds // 2)
    return _pruned(
        {
            "policy": "vote",
            "schedule": "constant",
            "regrow": 0.01,
            "grow": "gradient",
            "start_round": min(3, rounds),
            "end_round": half,
            "every": min(15, max(1, half // 4)),
        }
    )


def _feddip(rounds: int) -> Settings:
    # The released command: half the weights at first, a new mask every 5 of 1000 rounds, the regulariser up
    # to 0.001 in 20 steps.
    return _pruned(
        {
            "budget": "global",
            "initial_budget": "erk",
            "latent": True,
            "initial_density": 0.5,
            "start_round": 1,
            "end_round": rounds,
            "every": min(5, max(1, rounds // 8)),
            "regularizer": "norm",
            "strength": 0.001,
            "strength_steps": min(20, rounds),
            "score_codec": {"codec_id": "float32"},
        }
    )


def _progressive(rounds: int, *, share: float) -> dict[str, object]:
    """Let the coordinator swap weak weights for strong gradients, up to a third of the rounds."""
    start, end = 3, max(3, rounds // 3)
    return {
        "schedule": "constant",
        "regrow": share,
        "grow": "gradient",
        "top_scores": True,
        "start_round": start,
        "end_round": end,
        # The papers': a change every 10 of 300 rounds, until round 100.
        "every": min(10, max(1, (end - start) // 6)),
        "score_codec": {"codec_id": "topk", "fraction": 1.0, "bits": 16},
    }


def _prunefl(rounds: int) -> Settings:
    every = min(50, max(1, rounds // 8))
    return _pruned(
        {
            "schedule": "adaptive",
            "score": "squared-gradient",
            # The paper sums the squares over all steps between two changes.
            "score_batches": 10_000,
            "solo_rounds": max(1, rounds // 4),
            "start_round": min(2, rounds),
            "end_round": rounds,
            "every": every,
            "score_codec": {"codec_id": "float32"},
        }
    )


def _own_steps(rounds: int) -> Mapping[str, object]:
    """Return how devices thin their models: by 10 % from 50 % on, as LotteryFL's code; faster if need be."""
    return {"own_share": 0.1 if rounds >= 50 else 0.2, "own_least": 0.5, "held_out": 0.2}


RECIPES: Mapping[str, Recipe] = {
    "hedgerow": Recipe(
        meaning="ERK masks by magnitude, cubic; coded updates, coarse at first; server momentum",
        source="this project's own",
        settings=_hedgerow,
    ),
    "fedavg": Recipe(
        meaning="no pruning, float32 both ways: what others are compared with",
        source="McMahan 2017",
        settings=_always({**_AS_FLOATS, **_DENSE}),
    ),
    "random": Recipe(
        meaning="a random ERK mask that never changes",
        source="Evci 2020, the static baseline",
        settings=_always(_pruned({"schedule": "constant"})),
    ),
    "stc": Recipe(
        meaning="no pruning; the strongest 1 % of each update as signs and a mean, residuals at both ends",
        source="Sattler 2020",
        settings=_always(
            {
                "codec": {"feedback": "residual"},
                "codec.uplink": {"codec_id": "ternary", "fraction": 0.01},
                "codec.downlink": {"codec_id": "ternary", "fraction": 0.01},
                **_DENSE,
            }
        ),
    ),
    "feddst": Recipe(
        meaning="each device swaps weak weights for strong gradients; the union is pruned to an ERK budget",
        source="Bibikar 2022",
        traffic="up: a coded mask difference in rounds before a change",
        settings=_feddst,
    ),
    "prunefl": Recipe(
        meaning="one device prunes first, then all; what gains more than the mean for its time is live",
        source="Jiang 2022",
        traffic="up: g^2 of every weight in rounds before a change",
        settings=_prunefl,
    ),
    "feddip": Recipe(
        meaning="pruned weights train on behind the mask and compete at changes; a rising regulariser",
        source="Long 2023",
        traffic="up: the values of the pruned weights in rounds before a change",
        settings=_feddip,
    ),
    "fedrts": Recipe(
        meaning="masks drawn from a Beta posterior for each weight, which the devices' strongest teach",
        source="Huang 2025",
        traffic="up: the coded indices of wanted weights in rounds before a change",
        settings=lambda rounds: _pruned(
            {
                "policy": "thompson",
                "schedule": "constant",
                "regrow": 0.4,
                "grow": "gradient",
                "start_round": min(3, rounds),
                "end_round": max(min(3, rounds), rounds * 6 // 10),
                # The paper's: 10 of 500, until round 300.
                "every": min(10, max(1, rounds // 8)),
            }
        ),
    ),
    "fedtiny": Recipe(
        meaning="devices try masks of the first weights; then block after block swaps for strong gradients",
        source="Huang 2023",
        traffic="up: a loss for each mask, once; the strongest gradients of pruned weights before a change",
        settings=lambda rounds: _pruned(
            {**_progressive(rounds, share=0.3), "budget": "uniform", "candidates": 10, "blocks": 5}
        ),
    ),
    "fedmef": Recipe(
        meaning="as fedtiny from a random mask; what will go is pressed out before; half of the activations",
        source="Huang 2024, without its normalised convolution",
        traffic="up: the strongest gradients of pruned weights in rounds before a change",
        settings=lambda rounds: _pruned(
            {**_progressive(rounds, share=0.2), "extrusion": 0.01, "activations": 0.5}
        ),
    ),
    "sparsyfed": Recipe(
        meaning="each device prunes what it has trained, which powerpropagation makes agree; few activations",
        source="Guastella 2025",
        traffic="up: a coded mask difference",
        settings=lambda rounds: _pruned(
            {
                "policy": "local",
                "budget": "global",
                "schedule": "one-shot",
                "start_round": min(2, rounds),
                "end_round": rounds,
                "power": 1.25,
                "activations": 0.0,
            }
        ),
    ),
    "synflow": Recipe(
        meaning="pruned once before training by SynFlow in 100 steps, without data",
        source="Tanaka 2020",
        settings=_always(_pruned({"score": "synflow", "budget": "global", "schedule": "constant"})),
    ),
    "snip": Recipe(
        meaning="pruned once by |w g| of the first weights on a batch of each device, which then begin anew",
        source="Lee 2019",
        traffic="up: |w g| of every weight, once",
        settings=lambda rounds: _pruned(_before_training("snip", rounds)),
    ),
    "grasp": Recipe(
        meaning="pruned once by w (Hg) of the first weights on a batch of each device, which then begin anew",
        source="Wang 2020",
        traffic="up: w (Hg) of every weight, once",
        settings=lambda rounds: _pruned(_before_training("grasp", rounds)),
    ),
    "lottery": Recipe(
        meaning="train, prune the smallest, go back to the first weights, and again, by equal factors",
        source="Frankle & Carbin 2019, iterative magnitude pruning with rewinding, on the shared model",
        settings=lambda rounds: _pruned(
            {
                "budget": "global",
                "schedule": "geometric",
                "rewind": True,
                "start_round": min(2, rounds),
                "end_round": max(min(2, rounds), rounds * 6 // 10),
                "every": max(1, rounds // 5),
            }
        ),
    ),
    "tiers": Recipe(
        meaning="weaker devices train the weights that have moved most, nested, within the whole model",
        source="ours, after Yang 2022 (partial variable training)",
        settings=_always(
            {
                **_AS_FLOATS,
                "pruning": {"policy": "tiered", "tier_by": "distance", "density": 1.0},
                "pruning.tiers": {"ram_mib < 1024": 1 / 4, "ram_mib < 2048": 1 / 2},
            }
        ),
    ),
    "fiarse": Recipe(
        meaning="weaker devices train the largest weights of each tensor, nested, by a biased gradient",
        source="Wu 2024, layer by layer",
        settings=_always(
            {
                **_AS_FLOATS,
                "pruning": {"policy": "tiered", "density": 1.0, "biased": True},
                # The paper's sizes; who has which is for you to say.
                "pruning.tiers": {"ram_mib < 512": 1 / 64, "ram_mib < 1024": 1 / 16, "ram_mib < 4096": 1 / 4},
            }
        ),
    ),
    "heterofl": Recipe(
        meaning="weaker devices train narrower models: the first channels of each layer, averaged block-wise",
        source="Diao 2021",
        settings=_always(
            {
                **_AS_FLOATS,
                "pruning": {"policy": "tiered", "tier_by": "width", "mask_labels": True, "density": 1.0},
                # The paper's widths; who has which is for you to say.
                "pruning.tiers": {
                    "ram_mib < 512": 1 / 16,
                    "ram_mib < 1024": 1 / 8,
                    "ram_mib < 2048": 1 / 4,
                    "ram_mib < 4096": 1 / 2,
                },
            }
        ),
    ),
    "fedpm": Recipe(
        meaning="weights stay as drawn; devices train how likely each is to be there, and send sampled masks",
        source="Isik 2023",
        settings=_always(
            {
                **_AS_FLOATS,
                "codec.uplink": {"codec_id": "bits"},
                "pruning": {"policy": "sampled", "density": 1.0},
            }
        ),
    ),
    "lotteryfl": Recipe(
        meaning="each device prunes and rewinds its own model while that is good enough; overlaps count",
        source="Li 2020 (LotteryFL)",
        traffic="up: the device's own mask",
        settings=lambda rounds: _pruned({"policy": "personal", "rewind": True, **_own_steps(rounds)}),
    ),
    "hermes": Recipe(
        meaning="each device takes channels from its own model while it is good enough; overlaps count",
        source="Li 2021 (Hermes)",
        traffic="up: the device's own mask",
        settings=lambda rounds: _pruned(
            {"policy": "personal", "density": 1.0, "channels": 0.5, **_own_steps(rounds)}
        ),
    ),
    "seed-soft": Recipe(
        meaning="each row times its soft weight p / sum p, p = 1 - |row| / alpha, once; nothing is removed",
        source="the rule of the project's first text",
        settings=lambda rounds: {
            **_AS_FLOATS,
            "pruning": {"policy": "soft", "start_round": min(rounds, max(2, rounds // 2))},
        },
    ),
    "seed-norm": Recipe(
        meaning="rows whose norm is below the threshold go, once",
        source="the rule of the project's first code",
        settings=lambda rounds: _pruned(
            {
                "score": "row-norm",
                "budget": "threshold",
                "threshold": 0.5,
                "schedule": "one-shot",
                "start_round": min(rounds, max(2, rounds // 2)),
            }
        ),
    ),
}


def _before_training(score: str, rounds: int) -> Mapping[str, object]:
    """Score the first weights in round 1, and begin anew from them in round 2."""
    return {
        "score": score,
        "budget": "global",
        "schedule": "one-shot",
        "start_round": min(2, rounds),
        "rewind": True,
    }
