"""A pruning policy: the ``[pruning]`` table of a plan, as a value."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, cast

from hedgerow_codecs import CodecError, Layout, Mask, codec_from_config
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.pruning.budget import BUDGETS, Candidates
from hedgerow_coordinator.pruning.schedule import SCHEDULES
from hedgerow_coordinator.pruning.score import SCORES, Score
from hedgerow_coordinator.settings import check_choice, check_range

POLICIES: Mapping[str, str] = {
    "none": "every weight stays",
    "server": "the coordinator makes one mask for all",
    "vote": "each device proposes a mask; what any or enough of them hold is pruned to the budget",
    "tiered": "as server, and weaker devices train and send the strongest share of it",
    "soft": "the coordinator multiplies each row by its soft weight once, and takes nothing away",
}
REACTIONS = ("stop", "revert")
# Budgets that are no division of a density.
OUTCOME_BUDGETS: Mapping[str, str] = {"threshold": "what scores at least `threshold`"}
OUTCOME_SCHEDULES: Mapping[str, str] = {"adaptive": "what gains more than the mean for its time (PruneFL)"}
MAX_TIERS = 64


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
    threshold : float
        What the budget ``threshold`` compares with; alpha of the policy ``soft``.
    regrow : float
        Share of each tensor's live weights, 0 to 1 exclusive, that is swapped for pruned ones at
        `start_round`; it falls along half a cosine to 0 at `end_round`. 0: what is pruned does not come back.
    grow : str
        Name of the score by which pruned weights come back.
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
    times : Mapping[str, object]
        For the schedule ``adaptive``: cost of a weight by its tensor's name, 1 where none is given, and of a
        round besides under ``fixed``.
    solo_rounds : int
        In so many rounds at the beginning one device trains alone.
    tolerance : float
        Pruning reacts when the metric falls by more than this below its best; 0 is never.
    reaction : str
        ``stop``: the density holds until the metric is back. ``revert``: the last change is taken back, too.

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
    threshold: float = 0.0
    regrow: float = 0.0
    grow: str = "update"
    rewind: bool = False
    score_batches: int = 1
    score_codec: Mapping[str, object] = field(default_factory=_deadzone)
    vote_at: float = 1.0
    vote_threshold: float = 0.0
    tiers: Mapping[str, object] = field(default_factory=dict)
    times: Mapping[str, object] = field(default_factory=dict)
    solo_rounds: int = 0
    tolerance: float = 0.0
    reaction: str = "stop"

    def __post_init__(self) -> None:
        check_choice("policy", self.policy, POLICIES)
        check_choice("score", self.score, SCORES)
        check_choice("budget", self.budget, (*BUDGETS, *OUTCOME_BUDGETS))
        check_choice("schedule", self.schedule, (*SCHEDULES, *OUTCOME_SCHEDULES))
        check_choice("grow", self.grow, SCORES)
        check_choice("reaction", self.reaction, REACTIONS)
        check_range("density", self.density, above=0, most=1)
        check_range("initial_density", self.initial_density, least=self.density, most=1)
        check_range("start_round", self.start_round, least=1)
        check_range("end_round", self.end_round, least=self.start_round)
        check_range("every", self.every, least=1)
        check_range("threshold", self.threshold, least=0)
        check_range("regrow", self.regrow, least=0, below=1)
        check_range("score_batches", self.score_batches, least=1, most=10_000)
        check_range("vote_at", self.vote_at, above=0, most=1)
        check_range("vote_threshold", self.vote_threshold, least=0, most=1)
        check_range("solo_rounds", self.solo_rounds, least=0)
        check_range("tolerance", self.tolerance, least=0)
        self._check_tables()
        if self.policy != "none":
            self._check_combination()

    def _check_tables(self) -> None:
        try:
            codec_from_config(self.score_codec)
        except (CodecError, ValueError) as error:
            raise SettingError(f"is refused: {error}", key="score_codec") from error
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

    def _check_combination(self) -> None:
        """Refuse what makes no sense, with a sentence that says what does."""
        rules: tuple[tuple[bool, str, str], ...] = (
            (
                self.regrow > 0 and not SCORES[self.grow].scores_pruned,
                "grow",
                f'must be a score of pruned weights ({", ".join(growers())}), not "{self.grow}", '
                "which says nothing about weights that are not there",
            ),
            (
                self.regrow > 0 and self.density == 1,
                "regrow",
                "must be 0 when density is 1: there is nothing to grow into",
            ),
            (
                self.regrow > 0 and self.rewind,
                "rewind",
                "must be false when regrow is not 0: grown weights start at zero, not at first values",
            ),
            (
                self.regrow > 0 and self.policy not in ("server", "tiered", "vote"),
                "regrow",
                f'must be 0 with policy "{self.policy}", which makes no masks',
            ),
            (
                self.policy == "vote" and self.regrow == 0,
                "regrow",
                'must be above 0 with policy "vote": the devices vote on what to swap',
            ),
            (
                self.policy == "vote" and self.grow not in ("gradient", "random"),
                "grow",
                f'must be "gradient" or "random" with policy "vote", not "{self.grow}": '
                "devices grow by what they can see",
            ),
            (
                self.policy == "vote" and self.score != "magnitude",
                "score",
                f'must be "magnitude" with policy "vote", not "{self.score}": '
                "devices drop, and the union is pruned, by |w|",
            ),
            (
                self.policy == "vote" and self.budget in ("global", "lamp", *OUTCOME_BUDGETS),
                "budget",
                f'must be "erk", "er" or "uniform" with policy "vote", not "{self.budget}": '
                "proposals keep each tensor's number of weights",
            ),
            (
                self.policy in ("vote", "tiered") and len(self.protect) > MAX_TIERS,
                "protect",
                f'must name at most {MAX_TIERS} tensors with policy "{self.policy}": every round tells them',
            ),
            (
                self.tolerance > 0 and self.policy == "soft",
                "tolerance",
                'must be 0 with policy "soft", which takes nothing away',
            ),
            (
                self.tolerance > 0 and self.reaction == "revert" and self.rewind,
                "reaction",
                'must be "stop" when rewind is true: weights that have gone back cannot be put together with '
                "those from before",
            ),
            (
                self.policy == "tiered" and not self.tiers,
                "tiers",
                'must name the weaker devices with policy "tiered", as in [pruning.tiers] "zero-*" = 0.25',
            ),
            (
                bool(self.tiers) and self.policy != "tiered",
                "tiers",
                f'must be empty with policy "{self.policy}"; policy "tiered" uses it',
            ),
            (
                self.budget == "threshold" and self.threshold == 0,
                "threshold",
                'must be above 0 with budget "threshold"',
            ),
            (
                self.budget == "threshold" and self.schedule != "one-shot",
                "schedule",
                'must be "one-shot" with budget "threshold", which knows no density to go to',
            ),
            (
                (self.budget == "threshold" or self.schedule == "adaptive") and self.regrow > 0,
                "regrow",
                "must be 0 where the density is an outcome",
            ),
            (
                self.schedule == "adaptive" and self.score != "squared-gradient",
                "score",
                f'must be "squared-gradient" with schedule "adaptive", not "{self.score}": '
                "it weighs g^2 against time",
            ),
            (
                self.score == "squared-gradient" and self.schedule != "adaptive",
                "schedule",
                'must be "adaptive" with score "squared-gradient"; to grow by the gradient, use "gradient"',
            ),
            (
                len({score.wire for score in self._asked()}) > 1,
                "grow",
                f'must not be another device\'s score than "{self.score}": a round asks for one',
            ),
        )
        for broken, key, sentence in rules:
            if broken:
                raise SettingError(sentence, key=key)

    def _asked(self) -> tuple[Score, ...]:
        names = (self.score, *((self.grow,) if self.regrow > 0 else ()))
        return tuple(SCORES[name] for name in names if SCORES[name].origin == "device")

    @property
    def prunes(self) -> bool:
        """Whether this policy ever takes a weight away."""
        return self.policy not in ("none", "soft") and (self.density < 1 or self.density_is_outcome)

    @property
    def density_is_outcome(self) -> bool:
        """Whether the density comes of the scores, and `density` does not count."""
        return self.budget in OUTCOME_BUDGETS or self.schedule in OUTCOME_SCHEDULES

    def density_at(self, round_number: int) -> float:
        """Return the density of the mask under which a round (from 1) trains, in (0, 1]."""
        if not self.prunes or self.density_is_outcome:
            return 1.0
        return SCHEDULES[self.schedule](self, round_number)

    def regrow_at(self, round_number: int) -> float:
        """Return the share of each tensor's live weights that is swapped before a round: RigL's cosine.

        Evci et al. 2020, section 3: ``alpha / 2 (1 + cos(pi t / T))``, here with t and T from `start_round`.
        """
        elapsed, length = round_number - self.start_round, self.end_round - self.start_round
        if self.regrow == 0 or not 0 <= elapsed < max(length, 1) or elapsed % self.every:
            return 0.0
        # Round away the last bits, in which cos differs between machines.
        return round(self.regrow / 2 * (1 + math.cos(math.pi * elapsed / max(length, 1))), 12)

    def changes_at(self, round_number: int) -> bool:
        """Return whether a round may train under another mask than the one before."""
        if not self.prunes or round_number < 2:
            return False
        if self.budget in OUTCOME_BUDGETS:
            return round_number == self.start_round
        if self.schedule in OUTCOME_SCHEDULES:
            elapsed = round_number - self.start_round
            return 0 <= elapsed <= self.end_round - self.start_round and elapsed % self.every == 0
        thins = self.density_at(round_number) < self.density_at(round_number - 1)
        return thins or self.regrow_at(round_number) > 0

    def is_behind(self, mask: Mask, *, round: int) -> bool:
        """Return whether a mask is denser than a round should train under, as when scores have not come."""
        return mask.num_live > math.floor(self.density_at(round) * mask.layout.num_parameters + 1e-6)

    def question_at(self, round_number: int, *, mask: Mask | None = None) -> dict[str, object]:
        """Return what the devices are asked for in a round, beside their update; empty for nothing.

        With the `mask` of the round it is asked again where an earlier answer has not come.

        ``kind``: a kind of `hedgerow_edge_client.scores`; ``form``: ``values`` or ``mask``; ``batches``;
        ``at``: after which share of the steps; ``pruned``: whether pruned weights are scored; ``codec``. For
        masks, besides: ``swap`` and ``protect``. ``docs/pruning.md`` has the table.
        """
        is_behind = mask is not None and self.is_behind(mask, round=round_number + 1)
        if not self.changes_at(round_number + 1) and not is_behind:
            return {}
        question: dict[str, object] = {"batches": self.score_batches}
        if self.policy == "vote":
            swap = self.regrow_at(round_number + 1)
            if swap == 0:
                return {}
            kind = SCORES[self.grow].wire or self.grow
            return question | {
                "kind": kind,
                "form": "mask",
                "at": self.vote_at,
                "swap": swap,
                "protect": list(self.protect),
            }
        if not self._asked():
            return {}
        wanted = self._asked()[0]
        return question | {
            "kind": wanted.wire,
            "form": "values",
            "at": 0.0,
            "pruned": any(score.scores_pruned for score in self._asked()),
            "codec": dict(self.score_codec),
        }

    def told(self, question: Mapping[str, object]) -> dict[str, object]:
        """Return what a round's plan tells the devices: the question, if there is one, and the tiers."""
        told: dict[str, object] = {"question": dict(question)} if question else {}
        if self.policy == "tiered":
            told |= {"tiers": dict(self.tiers), "protect": list(self.protect)}
        return told

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
        if self.prunes and not self.density_is_outcome:
            Candidates(layout=layout, protect=self.protect).total(self.density)


def growers() -> tuple[str, ...]:
    """Return the names of the scores by which pruned weights can come back."""
    return tuple(name for name, score in SCORES.items() if score.scores_pruned)


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
