"""A pruning policy: the ``[pruning]`` table of a plan, as a value."""

import copy
import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, cast

from hedgerow_codecs import CodecError, Layout, LayoutError, Mask, check_sampled, codec_from_config
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.pruning.asking import LATENT, question_of, told_by
from hedgerow_coordinator.pruning.budget import BUDGETS, OUTCOME_BUDGETS, Candidates
from hedgerow_coordinator.pruning.channels import CHANNEL_SCORES
from hedgerow_coordinator.pruning.combinations import MAX_CANDIDATES, MAX_TIERS, combination_rules
from hedgerow_coordinator.pruning.schedule import OUTCOME_SCHEDULES, SCHEDULES
from hedgerow_coordinator.pruning.score import SCORES, Score
from hedgerow_coordinator.pruning.target import Target, target_rules
from hedgerow_coordinator.settings import check_choice, check_range

POLICIES: Mapping[str, str] = {
    "none": "every weight stays",
    "server": "the coordinator makes one mask for all",
    "vote": "each device proposes a mask; what any or enough of them hold is pruned to the budget",
    "tiered": "as server, and weaker devices train and send a part of it: some weights, or a narrower model",
    "thompson": "the coordinator draws masks from what it has learned of each weight; devices name weights",
    "local": "each device prunes its trained weights; the union of the masks is the next one, at last pruned",
    "personal": "each device thins its own model where that is good enough on data that it holds out",
    "sampled": "weights stay as drawn; devices train how likely each is to be there, and send sampled masks",
    "soft": "the coordinator multiplies each row by its soft weight once, and takes nothing away",
}
REACTIONS = ("stop", "revert")
# As `hedgerow_edge_client.shaping` has them.
REGULARIZERS = ("none", "l1", "l2", "norm")
TIERS_BY: Mapping[str, str] = {
    "magnitude": "a weaker device trains the largest share of each tensor's live weights",
    "distance": "a weaker device trains the weights that are farthest from the first model's",
    "width": "a weaker device has a narrower model, the first channels of each layer",
}


def _deadzone() -> Mapping[str, object]:
    return {"codec_id": "deadzone"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningPolicy:
    """The ``[pruning]`` table of a plan.

    Parameters
    ----------
    policy : str
        Who decides, one of `POLICIES`. With ``none`` no other field counts.
    score, budget, schedule : str
        Names in `SCORES`, `BUDGETS` and `SCHEDULES`; or a budget or schedule whose density is an outcome.
    density : float
        Live weights over all parameters at the end, in (0, 1].
    initial_density : float
        The same before `start_round`, from `density` to 1 inclusive.
    start_round, end_round : int
        Rounds in which the density starts and has ended to fall, from 1.
    every : int
        Rounds from one change of the mask to the next.
    protect : tuple[str, ...]
        Names of tensors that are not pruned, beside those that the layout calls not prunable.
    channels : float
        Share of the channels of each dependency group that stay at the end, in (0, 1]; 1 prunes none. Below
        1, weights are pruned inside the channels that stay, to `density` of all.
    channel_score : str
        Name in `CHANNEL_SCORES`.
    threshold : float
        What the budget ``threshold`` compares with; alpha of the policy ``soft``.
    regrow : float
        Share of each tensor's live weights, 0 to 1 exclusive, that is swapped for pruned ones at
        `start_round`; it falls along half a cosine to 0 at `end_round`. 0: what is pruned does not come back.
    grow : str
        Name of the score by which pruned weights come back.
    power : float
        Powerpropagation's alpha (Schwarz 2021) on the devices, from 1 to 8; 1 is plain training.
    initial_budget : str
        Name in `BUDGETS` for the first mask; empty for `budget`.
    latent : bool
        Whether the devices train pruned weights on behind the mask; at a change all weights compete anew, the
        pruned ones with what they have become.
    regularizer : str
        What pulls the prunable tensors towards sparsity on the devices, one of `REGULARIZERS`.
    strength : float
        What the regulariser is multiplied by, at least 0.
    strength_steps : int
        In how many equal steps it rises from 0, up to `end_round`; 1 is the whole strength all along.
    fusion : float
        With ``thompson``: how much the mean model counts beside the devices' own, 0 to 1.
    influence : float
        With ``thompson``: how many draws the outcome of a round counts for, above 0.
    activations : float
        Share of a layer's input that the devices keep for the gradient of its weights, 0 to 1; 0 is the
        density of the layer.
    top_scores : bool
        Whether the devices send only their strongest scores of pruned weights, as many as may change.
    blocks : int
        In so many blocks of tensors a swap takes turns, from the last to the first; 0: all tensors at once.
    candidates : int
        Number of masks that the devices try in round 1, without training; 0: none. The one with the smallest
        loss is the mask of round 2.
    extrusion : float
        In a round before a swap, what the sum of the squares of those weights that will go is multiplied by
        in the loss.
    rewind : bool
        Whether all weights go back to their first values when the mask changes.
    score_batches : int
        Batches on which a device scores.
    score_codec : Mapping[str, object]
        Configuration of the codec for scores.
    vote_at : float
        When a device proposes its mask: after this share of its steps, in (0, 1].
    vote_threshold : float
        Share of the devices' samples, 0 to 1, that must hold a weight to be preferred; 0 is the union.
    tiers : Mapping[str, object]
        Share of the live weights, in (0, 1], by pattern of device names or ``ram_mib < N``.
    tier_by : str
        What a tier holds, one of `TIERS_BY`: ``magnitude``, the strongest of each tensor's live weights;
        ``distance``, those that are farthest from the first model's; ``width``, the first channels of each
        layer, and the share is of those.
    mask_labels : bool
        With `tiers`: whether logits of labels that a device has not are zero in its loss (HeteroFL).
    biased : bool
        With `tiers`: whether weaker devices train by FIARSE's gradient, which lets weights near a tier's
        threshold leave it and come back.
    times : Mapping[str, object]
        For the schedule ``adaptive``: cost of a weight by its tensor's name, 1 where none is given, and of a
        round besides under ``fixed``.
    solo_rounds : int
        In so many rounds at the beginning one device trains alone.
    tolerance : float
        Pruning reacts when the metric falls by more than this below its best; 0 is never.
    reaction : str
        ``stop``: the density holds until the metric is back. ``revert``: the last change is taken back, too.
    target : Mapping[str, object]
        What the model must fit into, see `Target`: the density falls until it does, down to `density`.
    held_out : float
        With the policy ``personal``: share of each device's samples, 0 to 1 exclusive, that it does not train
        on, but measures its own model on.
    own_share : float
        What a change takes of what a device's own model has left, in (0, 1).
    own_least : float
        The metric on what is held out from which on a device thins its own model.

    Raises
    ------
    SettingError
        A value breaks its rule, or two do not go together.
    """

    policy: str = "server"
    score: str = "magnitude"
    budget: str = "erk"
    schedule: str = "cubic"
    density: float = 0.2
    initial_density: float = 1.0
    start_round: int = 2
    end_round: int = 14
    every: int = 1
    protect: tuple[str, ...] = ()
    channels: float = 1.0
    channel_score: str = "l2"
    threshold: float = 0.0
    regrow: float = 0.0
    grow: str = "update"
    power: float = 1.0
    initial_budget: str = ""
    latent: bool = False
    regularizer: str = "none"
    strength: float = 0.0
    strength_steps: int = 1
    activations: float = 1.0
    fusion: float = 0.5
    influence: float = 10.0
    top_scores: bool = False
    blocks: int = 0
    candidates: int = 0
    extrusion: float = 0.0
    rewind: bool = False
    score_batches: int = 1
    score_codec: Mapping[str, object] = field(default_factory=_deadzone)
    vote_at: float = 1.0
    vote_threshold: float = 0.0
    tiers: Mapping[str, object] = field(default_factory=dict)
    tier_by: str = "magnitude"
    mask_labels: bool = False
    biased: bool = False
    times: Mapping[str, object] = field(default_factory=dict)
    solo_rounds: int = 0
    tolerance: float = 0.0
    reaction: str = "stop"
    target: Mapping[str, object] = field(default_factory=dict)
    held_out: float = 0.2
    own_share: float = 0.1
    own_least: float = 0.5

    def __post_init__(self) -> None:
        check_choice("policy", self.policy, POLICIES)
        check_choice("score", self.score, SCORES)
        check_choice("budget", self.budget, (*BUDGETS, *OUTCOME_BUDGETS))
        check_choice("schedule", self.schedule, (*SCHEDULES, *OUTCOME_SCHEDULES))
        check_choice("grow", self.grow, SCORES)
        check_choice("reaction", self.reaction, REACTIONS)
        check_choice("initial_budget", self.initial_budget, ("", *BUDGETS))
        check_choice("regularizer", self.regularizer, REGULARIZERS)
        check_range("strength", self.strength, least=0, most=1e6)
        check_range("activations", self.activations, least=0, most=1)
        check_range("fusion", self.fusion, least=0, most=1)
        check_range("influence", self.influence, above=0, most=1e6)
        check_range("blocks", self.blocks, least=0, most=1000)
        check_range("candidates", self.candidates, least=0, most=MAX_CANDIDATES)
        check_range("extrusion", self.extrusion, least=0, most=1e6)
        check_range("strength_steps", self.strength_steps, least=1, most=100_000)
        check_range("density", self.density, above=0, most=1)
        check_range("initial_density", self.initial_density, least=self.density, most=1)
        check_range("start_round", self.start_round, least=1)
        check_range("end_round", self.end_round, least=self.start_round)
        check_range("every", self.every, least=1)
        check_range("channels", self.channels, above=0, most=1)
        check_choice("channel_score", self.channel_score, CHANNEL_SCORES)
        check_range("threshold", self.threshold, least=0)
        check_range("regrow", self.regrow, least=0, below=1)
        check_range("power", self.power, least=1, most=8)
        check_range("score_batches", self.score_batches, least=1, most=10_000)
        check_range("vote_at", self.vote_at, above=0, most=1)
        check_range("vote_threshold", self.vote_threshold, least=0, most=1)
        check_range("solo_rounds", self.solo_rounds, least=0)
        check_range("tolerance", self.tolerance, least=0)
        check_choice("tier_by", self.tier_by, TIERS_BY)
        check_range("held_out", self.held_out, least=0, below=1)
        check_range("own_share", self.own_share, above=0, below=1)
        check_range("own_least", self.own_least)
        self._check_tables()
        if self.policy != "none":
            for broken, key, sentence in combination_rules(self):
                if broken:
                    raise SettingError(sentence, key=key)

    def _check_tables(self) -> None:
        try:
            codec_from_config(self.score_codec)
        except (CodecError, ValueError) as error:
            raise SettingError(f"is refused: {error}", key="score_codec") from error
        self._check_target()
        if len(self.tiers) > MAX_TIERS:
            raise SettingError(f"must have at most {MAX_TIERS} entries, not {len(self.tiers)}", key="tiers")
        for name, share in self.tiers.items():
            if not 0 < _number(share) <= 1:
                raise SettingError(
                    f"must give {name!r} a share above 0 and at most 1, not {share}", key="tiers"
                )
        for name, cost in self.times.items():
            if not (0 < _number(cost) < math.inf or (name == "fixed" and _number(cost) == 0)):
                raise SettingError(f"must give {name!r} a time above 0, not {cost}", key="times")

    def _check_target(self) -> None:
        try:
            goal = self.goal
        except ValueError as error:
            raise SettingError(str(error), key="target") from error
        rules = target_rules(
            goal,
            channels=self.channels,
            schedule=self.schedule,
            takes_nothing=not self.prunes or self.policy == "personal",
            steps=SCHEDULES.keys() - {"constant", "one-shot"},
        )
        for broken, sentence in rules:
            if broken:
                raise SettingError(sentence, key="target")

    @property
    def goal(self) -> Target | None:
        """What `target` asks for; None for nothing."""
        return Target.read(self.target)

    @property
    def is_watched(self) -> bool:
        """Whether what is measured decides how pruning goes on."""
        return self.tolerance > 0 or bool(self.target)

    def protecting(self, names: Collection[str]) -> "PruningPolicy":
        """Return this policy with more tensors protected, which the devices know without being told."""
        policy = copy.copy(self)
        more = tuple(name for name in names if name not in self.protect)
        # Not `replace`: the rule for how many a plan may protect is one of what is told.
        object.__setattr__(policy, "protect", self.protect + more)
        return policy

    def asked(self) -> tuple[Score, ...]:
        """Return the scores of weights that the devices compute."""
        names = [self.score] if self.density < 1 or self.density_is_outcome else []
        names += [self.grow] if self.regrow > 0 else []
        return tuple(SCORES[name] for name in names if SCORES[name].origin == "device")

    def wires(self) -> set[str]:
        """Return the kinds of scores that devices are asked for; a plan has one at most."""
        of_channels = CHANNEL_SCORES[self.channel_score].wire if self.channels < 1 else ""
        latent = {LATENT} if self.latent else set[str]()
        return {score.wire for score in self.asked()} | ({of_channels} if of_channels else set()) | latent

    @property
    def prunes(self) -> bool:
        """Whether this policy ever takes a weight away."""
        takes = self.density < 1 or self.channels < 1 or self.density_is_outcome
        return self.policy not in ("none", "soft", "personal", "sampled") and takes

    @property
    def density_is_outcome(self) -> bool:
        """Whether the density comes of the scores, and `density` does not count."""
        return self.budget in OUTCOME_BUDGETS or self.schedule in OUTCOME_SCHEDULES

    def density_at(self, round_number: int) -> float:
        """Return the density of the mask under which a round (from 1) trains, in (0, 1]."""
        if not self.prunes or self.density_is_outcome or (self.candidates and round_number == 1):
            return 1.0
        return SCHEDULES[self.schedule](self, round_number)

    def channels_at(self, round_number: int) -> float:
        """Return the share of each group's channels that a round trains with, in (0, 1]."""
        if not self.prunes or self.channels == 1:
            return 1.0
        table = _Table(
            density=self.channels, start_round=self.start_round, end_round=self.end_round, every=self.every
        )
        return SCHEDULES[self.schedule](table, round_number)

    def regrow_at(self, round_number: int) -> float:
        """Return the share of each tensor's live weights that is swapped before a round: RigL's cosine.

        Evci et al. 2020, section 3: ``alpha / 2 (1 + cos(pi t / T))``, here with t and T from `start_round`.
        """
        elapsed, length = round_number - self.start_round, self.end_round - self.start_round
        if self.regrow == 0 or not 0 <= elapsed < max(length, 1) or elapsed % self.every:
            return 0.0
        return self.open_at(round_number)

    def open_at(self, round_number: int) -> float:
        """Return the share of the live weights that a change before a round would swap, if there were one."""
        length = max(self.end_round - self.start_round, 1)
        elapsed = min(max(round_number - self.start_round, 0), length)
        # Round away the last bits, in which cos differs between machines.
        return round(self.regrow / 2 * (1 + math.cos(math.pi * elapsed / length)), 12)

    def changes_at(self, round_number: int) -> bool:
        """Return whether a round may train under another mask than the one before."""
        if not self.prunes or round_number < 2:
            return False
        if self.budget in OUTCOME_BUDGETS:
            return round_number == self.start_round
        if self.policy == "local":
            return self.start_round <= round_number <= self.end_round
        if self.schedule in OUTCOME_SCHEDULES:
            return self._is_due(round_number)
        thins = self.density_at(round_number) < self.density_at(round_number - 1)
        narrows = self.channels_at(round_number) < self.channels_at(round_number - 1)
        competes = self.latent and self._is_due(round_number)
        return thins or narrows or competes or self.regrow_at(round_number) > 0

    def _is_due(self, round_number: int) -> bool:
        """Return whether a round is one of every `every` from `start_round` to `end_round`."""
        elapsed = round_number - self.start_round
        return 0 <= elapsed <= self.end_round - self.start_round and elapsed % self.every == 0

    def is_behind(self, mask: Mask, *, round: int) -> bool:
        """Return whether a mask is denser than a round should train under, as when scores have not come."""
        return mask.num_live > math.floor(self.density_at(round) * mask.layout.num_parameters + 1e-6)

    def question_at(self, round_number: int, *, is_behind: bool = False, seed: int = 0) -> dict[str, object]:
        """Return what the devices are asked for in a round, beside their update; see `asking.question_of`."""
        return question_of(self, round_number, is_behind=is_behind, seed=seed)

    def told(
        self, question: Mapping[str, object], *, round_number: int = 1, first_rate: float = 0.0
    ) -> dict[str, object]:
        """Return what a round's plan tells the devices; see `asking.told_by`."""
        return told_by(self, question, round_number=round_number, first_rate=first_rate)

    def check(self, layout: Layout) -> None:
        """Check before the first round that this policy can be carried out on a model.

        Raises
        ------
        SettingError
            A protected or timed tensor is not in the layout.
        DensityError
            The final density cannot be met.
        """
        names = [tensor.name for tensor in layout.tensors]
        timed = [name for name in self.times if name != "fixed"]
        for key, given in (("protect", self.protect), ("times", timed)):
            for name in given:
                if name not in names:
                    close = difflib.get_close_matches(name, names, n=1)
                    hint = f"; did you mean {close[0]!r}?" if close else ""
                    raise SettingError(
                        f"names {name!r}, which is not a tensor of the model{hint}", table="pruning", key=key
                    )
        if self.policy == "sampled":
            try:
                check_sampled(layout)
            except LayoutError as error:
                raise SettingError(
                    f'cannot be "sampled" for this model: {error}', table="pruning", key="policy"
                ) from error
        if (self.prunes or self.policy == "personal") and not self.density_is_outcome:
            Candidates(layout=layout, protect=self.protect).total(self.density)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """What a schedule reads, for the share of channels."""

    density: float
    start_round: int
    end_round: int
    every: int
    initial_density: float = 1.0


def _number(value: object) -> float:
    """Return a number as it is, and -1 for anything else."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else -1.0


# Fields that plans did not have at first; with these values a policy is what it was then.
ADDED: Mapping[str, object] = {
    entry.name: entry.default if entry.default is not MISSING else cast(Any, entry.default_factory)()
    for entry in fields(PruningPolicy)
    if entry.name not in ("policy", "score", "budget", "schedule", "density", "initial_density")
    and entry.name not in ("start_round", "end_round", "every", "protect")
}
