"""The plan of a run: what plan.toml says, as values that are checked.

Every field's name is the key in the file. Rounds count from 1, seconds are wall time.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hedgerow_codecs import (
    FEEDBACKS,
    MAX_PATTERNS,
    CodecError,
    ConfigError,
    Frozen,
    Layout,
    LayoutError,
    codec_from_config,
)
from hedgerow_coordinator.codec_schedule import codec_config_at
from hedgerow_coordinator.errors import SettingError
from hedgerow_coordinator.plan_rules import rules_between_tables
from hedgerow_coordinator.pruning.policy import ADDED, PruningPolicy
from hedgerow_coordinator.server_optimizer import AggregationSettings
from hedgerow_coordinator.settings import (
    NAME,
    NAME_RULE,
    NOT_A_KEY,
    check_choice,
    check_pattern,
    check_range,
    parse_settings,
    read_settings_file,
    write_tables,
)

MAX_COHORT = 120
# Settings that plans did not have at first, and what was done then. (Outliers were taken; such a run goes on
# without them.)
_ADDED: Mapping[tuple[str, str], object] = {
    ("codec", "feedback"): "residual",
    ("codec", "residual_decay"): 1.0,
    ("model", "freeze"): (),
    ("aggregation", "optimizer"): "sgd",
    ("aggregation", "server_momentum"): 0.0,
    ("aggregation", "second_moment_decay"): 0.99,
    ("aggregation", "epsilon"): 1e-3,
    ("aggregation", "ema"): 0.0,
    ("aggregation", "outlier_ratio"): 10.0,
    ("transport", "max_kbit_s"): 0.0,
} | {("pruning", key): value for key, value in ADDED.items()}
MAX_ROUNDS = 99_999
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """``[run]``: name, number of rounds and the seed of everything random."""

    name: str
    rounds: int = 20
    seed: int = 7

    def __post_init__(self) -> None:
        check_pattern("name", self.name, NAME, rule=NAME_RULE)
        check_range("rounds", self.rounds, least=1, most=MAX_ROUNDS)
        check_range("seed", self.seed, least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """``[model]``: the ONNX template, relative to the plan, and where the first weights come from.

    `init` "pretrained" takes the template's weights, as "template" does, where they are trained already.
    Of tensors that a pattern of `freeze` means the first values stay; see `hedgerow_codecs.Frozen.matching`.
    """

    template: str = "template.onnx"
    init: str = "seeded"
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_path("template", self.template)
        check_choice("init", self.init, ("seeded", "template", "pretrained"))
        if len(self.freeze) > MAX_PATTERNS:
            raise SettingError(
                f"must be at most {MAX_PATTERNS} patterns, not {len(self.freeze)}", key="freeze"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortSettings:
    """``[cohort]``: who takes part in a round and how long it waits.

    `clients_per_round` 0 means everybody; `quorum` is a share of the cohort in (0, 1]; `grace_s` runs from
    the moment the quorum is reached; `join_timeout_s` 0 waits for ever.
    """

    min_clients: int = 5
    clients_per_round: int = 0
    quorum: float = 0.6
    deadline_s: float = 600.0
    grace_s: float = 30.0
    join_timeout_s: float = 600.0
    max_failed_attempts: int = 3

    def __post_init__(self) -> None:
        check_range("min_clients", self.min_clients, least=1)
        check_range("clients_per_round", self.clients_per_round, least=0, most=MAX_COHORT)
        check_range("quorum", self.quorum, above=0, most=1)
        check_range("deadline_s", self.deadline_s, above=0)
        check_range("grace_s", self.grace_s, least=0)
        check_range("join_timeout_s", self.join_timeout_s, least=0)
        check_range("max_failed_attempts", self.max_failed_attempts, least=1)

    def quorum_of(self, cohort: int) -> int:
        """Return how many updates make a quorum of a cohort of this size, at least 1."""
        # Binary rounding may put 0.6 * 5 above 3; the quorum is then still 3.
        return max(1, math.ceil(self.quorum * cohort - 1e-9))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """``[training]``: plain SGD on the devices. `max_seconds` 0 sets no limit; `proximal_mu` is FedProx's."""

    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.05
    learning_rate_decay: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    max_seconds: float = 0.0

    def __post_init__(self) -> None:
        check_range("epochs", self.epochs, least=1, most=1000)
        check_range("batch_size", self.batch_size, least=1, most=65536)
        check_range("learning_rate", self.learning_rate, above=0, most=1e6)
        check_range("learning_rate_decay", self.learning_rate_decay, above=0, most=1)
        check_range("momentum", self.momentum, least=0, below=1)
        check_range("weight_decay", self.weight_decay, least=0, most=1e6)
        check_range("proximal_mu", self.proximal_mu, least=0, most=1e6)
        check_range("max_seconds", self.max_seconds, least=0, most=1e8)

    def learning_rate_at(self, round_number: int) -> float:
        """Return the devices' learning rate in a round, from 1."""
        return float(self.learning_rate * self.learning_rate_decay ** (round_number - 1))


def _default_codec() -> Mapping[str, object]:
    return {"codec_id": "deadzone"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSettings:
    """``[codec]``: what the devices do with what a codec leaves out, one of `hedgerow_codecs.FEEDBACKS`.

    Of what "residual" owes, the share `residual_decay` is added to the next update.

    ``[codec.uplink]`` and ``[codec.downlink]`` are configurations for `hedgerow_codecs.codec_from_config`. A
    number may be a list of two, for the first and for the last round; see `codec_config_at`.
    """

    feedback: str = "residual"
    residual_decay: float = 1.0
    uplink: Mapping[str, object] = field(default_factory=_default_codec)
    downlink: Mapping[str, object] = field(default_factory=_default_codec)

    def __post_init__(self) -> None:
        for name, config in (("uplink", self.uplink), ("downlink", self.downlink)):
            for end in (1, 2):
                _check_codec(config, end=end, table=f"codec.{name}")
        check_choice("feedback", self.feedback, FEEDBACKS)
        check_range("residual_decay", self.residual_decay, above=0, most=1)
        if self.feedback != "residual" and self.residual_decay != 1:
            raise SettingError(
                f'is for feedback = "residual" alone, not for "{self.feedback}": leave it out',
                key="residual_decay",
            )
        if self.feedback == "ef21" and self.uplink["codec_id"] == "float32":
            raise SettingError(
                'must not be "ef21" when the uplink is "float32": that leaves nothing out, and a model for '
                'each device would be kept on the coordinator\'s disk for nothing; use "none"',
                key="feedback",
            )
        if self.feedback != "none" and self.uplink.get("unbiased"):
            raise SettingError(
                f'must be "none" when the uplink is unbiased, not "{self.feedback}": '
                "error feedback would make it diverge",
                key="feedback",
            )
        if self.downlink.get("unbiased"):
            raise SettingError(
                "must be false: the coordinator sends later what it left out, which would then diverge",
                table="codec.downlink",
                key="unbiased",
            )


def _check_codec(config: Mapping[str, object], *, end: int, table: str) -> None:
    """Raise `SettingError` unless the first (1) or last (2) round's configuration makes a codec."""
    try:
        codec_from_config(codec_config_at(config, round=end, rounds=2))
    except CodecError as error:
        key = error.key if isinstance(error, ConfigError) and error.key in config else "codec_id"
        raise SettingError(f"is refused: {error}", table=table, key=key) from error
    except ValueError as error:
        key = next(key for key in config if str(error).startswith(f"{key} "))
        raise SettingError(str(error).removeprefix(f"{key} "), table=table, key=key) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """``[evaluate]``: test data (.npz with `inputs` and `targets`), and after how many rounds to measure."""

    data: str | None = None
    metric: str = "accuracy"
    every: int = 1

    def __post_init__(self) -> None:
        if self.data is not None:
            _check_path("data", self.data)
        check_pattern("metric", self.metric, NAME, rule=f"the name of a metric, {NAME_RULE}")
        check_range("every", self.every, least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """``[transport]``: topic namespace, and in which pieces and how fast blobs are broadcast.

    `max_kbit_s` 0 is as fast as the link to the broker.
    """

    namespace: str = "default"
    chunk_bytes: int = 49152
    max_kbit_s: float = 0.0

    def __post_init__(self) -> None:
        check_pattern("namespace", self.namespace, NAME, rule=NAME_RULE)
        check_range("chunk_bytes", self.chunk_bytes, least=1024, most=262144)
        check_range("max_kbit_s", self.max_kbit_s, least=0, most=1e8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of a plan.toml.

    Equal when the settings are equal: comments, order and place of the file do not count.

    Parameters
    ----------
    run, model, cohort, training, aggregation, codec, pruning, evaluate, transport
        One value for each table.
    source : bytes
        The file as given, to the byte; empty for a plan made in memory.
    directory : Path
        What relative paths in the plan are relative to.

    Raises
    ------
    SettingError
        Two values do not go together.
    """

    run: RunSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    cohort: CohortSettings = field(default_factory=CohortSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    aggregation: AggregationSettings = field(default_factory=AggregationSettings)
    codec: CodecSettings = field(default_factory=CodecSettings)
    pruning: PruningPolicy = field(default_factory=PruningPolicy)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    transport: TransportSettings = field(default_factory=TransportSettings)
    source: bytes = field(default=b"", compare=False, repr=False, metadata=NOT_A_KEY)
    directory: Path = field(default=Path("."), compare=False, repr=False, metadata=NOT_A_KEY)

    def __post_init__(self) -> None:
        pruning, rounds = self.pruning, self.run.rounds
        last = {"constant": 1, "one-shot": pruning.start_round, "adaptive": pruning.start_round}.get(
            pruning.schedule, pruning.end_round
        )
        if pruning.policy == "local":
            last = pruning.end_round
        if pruning.prunes and last > rounds:
            raise SettingError(
                f"must be at most {rounds}, the number of rounds, not {last}: "
                f"the run would end before density {pruning.density:g} is reached",
                table="pruning",
                key="end_round" if last == pruning.end_round else "start_round",
            )
        for broken, table, key, sentence in rules_between_tables(self):
            if broken:
                raise SettingError(sentence, table=table, key=key)

    def frozen(self, layout: Layout) -> Frozen:
        """Return the tensors that stay as they are.

        Raises
        ------
        SettingError
            A pattern means none of the layout's tensors, or nothing is left to train.
        """
        try:
            return Frozen.matching(layout, self.model.freeze)
        except LayoutError as error:
            raise SettingError(f"cannot be used: {error}", table="model", key="freeze") from error

    def policy(self, layout: Layout) -> PruningPolicy:
        """Return the pruning policy, with what is frozen among the protected tensors.

        Raises
        ------
        SettingError, DensityError
            As `frozen`, and where the policy cannot be carried out on this layout.
        """
        policy = self.pruning.protecting(self.frozen(layout).names)
        policy.check(layout)
        return policy

    def uplink_at(self, round_number: int) -> dict[str, object]:
        """Return the codec configuration of the updates of a round, from 1."""
        return codec_config_at(self.codec.uplink, round=round_number, rounds=self.run.rounds)

    def downlink_at(self, round_number: int) -> dict[str, object]:
        """Return the codec configuration of the step that a round ends with."""
        return codec_config_at(self.codec.downlink, round=round_number, rounds=self.run.rounds)

    @property
    def template_path(self) -> Path:
        """The ONNX template."""
        return self.directory / self.model.template

    @property
    def evaluate_path(self) -> Path | None:
        """The test data, or None when the plan names none."""
        return None if self.evaluate.data is None else self.directory / self.evaluate.data

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the tables as plain JSON values, defaults filled in."""
        tables = asdict(self)
        del tables["source"], tables["directory"]
        return tables

    @property
    def digest(self) -> bytes:
        """blake2b-128 of the canonical JSON of the settings: equal plans have equal digests."""
        settings = self.settings()
        for (table, key), value in _ADDED.items():
            # A run that was begun before there was a choice goes on.
            if settings[table][key] == value:
                del settings[table][key]
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.blake2b(canonical.encode(), digest_size=DIGEST_BYTES).digest()

    def differences(self, other: "Plan") -> list[str]:
        """Name what another plan has otherwise, as ``[table] key: ours -> theirs``, in plan order."""
        ours, theirs = self.settings(), other.settings()
        return [
            f"[{table}] {key}: {json.dumps(value)} -> {json.dumps(theirs[table][key])}"
            for table, values in ours.items()
            for key, value in values.items()
            if value != theirs[table][key]
        ]

    def to_toml(self) -> str:
        """Write all settings, defaults included, as TOML that `parse_plan` reads back to an equal plan."""
        return write_tables(self.settings())


def load_plan(path: Path | str) -> Plan:
    """Read a plan file, once, and check all of it.

    Raises
    ------
    PlanError
        One sentence with file, line, table and key.
    """
    path = Path(path)
    return parse_plan(read_settings_file(path), source=str(path), directory=path.parent)


def parse_plan(data: bytes, *, source: str = "plan.toml", directory: Path = Path(".")) -> Plan:
    """Read a plan from the bytes of its file; `source` names it in errors.

    Raises
    ------
    PlanError
        As `load_plan`.
    """
    return replace(parse_settings(Plan, data, source=source), source=data, directory=directory)


def _check_path(key: str, value: str) -> None:
    if not value or "\0" in value:
        raise SettingError("must be the path of a file", key=key)
