"""What a round asks of a device beside its update: scores of weights, or a mask that it proposes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

# What `hedgerow_edge_client.scores` can compute, and "latent": what pruned weights have become behind the
# mask; "random" grows by chance and computes nothing.
VALUE_KINDS = (
    "gradient",
    "squared-gradient",
    "snip",
    "grasp",
    "fisher",
    "taylor",
    "information",
    "latent",
)
# "magnitude" keeps the device's strongest weights, and grows none.
MASK_KINDS = ("gradient", "random", "magnitude")
FORMS: Mapping[str, tuple[str, ...]] = {
    "values": VALUE_KINDS,
    "mask": MASK_KINDS,
    "indices": ("gradient", "random"),
    "trial": ("loss",),
}


# Each is a pass over some data.
MAX_CANDIDATES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Ask a device to score its weights on its data.

    Parameters
    ----------
    kind
        One of `VALUE_KINDS`, or of `MASK_KINDS` for a mask.
    form
        ``values``: the scores themselves. ``mask``: a mask in which some weak weights are swapped for pruned
        ones with high scores. ``indices``: which pruned weights have the highest scores. ``trial``: the
        losses of some masks, without training.
    batches
        On how many batches, at least 1.
    at
        After which share of the steps, 0 to 1 inclusive. Values of 0 are of the weights that the round begins
        with, so that their mean over the devices is that of one model; of 1, of those it ends with.
    swap
        Share of each tensor's live weights that a proposal swaps, or as many of which are named, 0 to 1
        exclusive.
    density
        Of a proposal of kind ``magnitude``, over the whole model, above 0 to 1.
    top
        Whether of the values those alone are sent that ``indices`` would name; the others are 0.
    block, blocks
        In which one of how many blocks of tensors weights are named; 0 blocks for all.
    candidates, seed
        How many masks are tried, and what says how many weights each of their tensors keeps, see
        `hedgerow_codecs.candidate_counts`.
    protect
        Tensors that a proposal leaves alone.

    Raises
    ------
    ValueError
        It cannot be answered here; the message is a sentence.
    """

    kind: str
    form: str = "values"
    batches: int = 1
    at: float = 0.0
    swap: float = 0.0
    density: float = 1.0
    top: bool = False
    block: int = 0
    blocks: int = 0
    candidates: int = 0
    seed: int = 0
    protect: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in FORMS.get(self.form, ()):
            raise ValueError(
                f"scores of kind '{self.kind}' in form '{self.form}' are not known here; "
                "update Hedgerow on this device"
            )
        if self.batches < 1 or not 0 <= self.at <= 1 or not 0 <= self.swap < 1:
            raise ValueError(
                f"the plan asks for scores on {self.batches} batches, after {self.at} of the steps, "
                f"to swap {self.swap} of the weights, which makes no sense"
            )
        if not 0 < self.density <= 1:
            raise ValueError(f"the plan asks for a mask of density {self.density}, which makes no sense")
        if self.form == "trial" and not 1 <= self.candidates <= MAX_CANDIDATES:
            raise ValueError(f"the plan asks to try {self.candidates} masks, which makes no sense")
        if not 0 <= self.seed < 1 << 64 or self.blocks < 0:
            raise ValueError(
                f"the plan asks for block {self.block} of {self.blocks} and has the seed {self.seed}, "
                "which makes no sense"
            )
        if self.form == "values" and self.at not in (0, 1):
            raise ValueError(f"scores are taken before or after training, not after {self.at} of the steps")
        if self.kind == "latent" and self.at != 1:
            raise ValueError("what pruned weights have become is known after training alone")

    @classmethod
    def read(cls, asked: Mapping[str, Any]) -> Question | None:
        """Read what a round plan asks, as plain data; None where that is nothing.

        Raises
        ------
        ValueError
            It cannot be answered here.
        """
        if not asked:
            return None
        known = {entry.name for entry in fields(cls)}
        values = {name: value for name, value in asked.items() if name in known}
        kinds: dict[str, type | tuple[type, ...]] = {
            "kind": str,
            "form": str,
            "batches": int,
            "block": int,
            "blocks": int,
            "candidates": int,
            "seed": int,
            "at": (int, float),
            "swap": (int, float),
            "density": (int, float),
            "top": bool,
        }
        for name, kind in kinds.items():
            is_bool = isinstance(values.get(name), bool)
            if name in values and (not isinstance(values[name], kind) or is_bool != (kind is bool)):
                raise ValueError(
                    f"the plan asks for scores with {name} {values[name]!r}, which makes no sense"
                )
        protect = values.get("protect", ())
        if not isinstance(protect, (list, tuple)) or not all(isinstance(name, str) for name in protect):
            raise ValueError("the plan names the protected tensors in a way that makes no sense")
        if "kind" not in values:
            raise ValueError("the plan asks for scores without a kind")
        return cls(**{**values, "protect": tuple(protect)})

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data for the trainer's pipe."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)} | {
            "protect": list(self.protect)
        }
