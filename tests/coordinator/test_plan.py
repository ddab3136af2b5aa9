"""The plan: what is read back, and one sentence for every mistake of its author."""

import contextlib
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow_codecs import FEEDBACKS, codec_from_config
from hedgerow_coordinator.errors import PlanError, SettingError
from hedgerow_coordinator.plan import (
    CohortSettings,
    EvaluateSettings,
    Plan,
    RunSettings,
    TrainingSettings,
    load_plan,
    parse_plan,
)
from hedgerow_coordinator.plan_template import plan_template
from hedgerow_coordinator.pruning import POLICIES
from hedgerow_coordinator.pruning.policy import PruningPolicy

SMALL = '[run]\nname = "digits"\n'


def refusal(text: str) -> str:
    with pytest.raises(PlanError) as caught:
        parse_plan(text.encode())
    return str(caught.value)


def test_the_template_holds_every_default() -> None:
    assert parse_plan(plan_template(name="digits").encode()) == Plan(run=RunSettings(name="digits"))


def test_the_template_takes_its_parameters() -> None:
    text = plan_template(name="a-1", rounds=10, min_clients=2, has_test_data=True, metric="mse")
    plan = parse_plan(text.encode())
    assert plan.run == RunSettings(name="a-1", rounds=10)
    assert plan.cohort == CohortSettings(min_clients=2)
    assert plan.evaluate == EvaluateSettings(data="evaluate.npz", metric="mse")
    assert (plan.pruning.start_round, plan.pruning.end_round) == (2, 7)


@pytest.mark.parametrize("rounds", [1, 2, 3, 99_999])
def test_the_template_fits_any_number_of_rounds(rounds: int) -> None:
    assert parse_plan(plan_template(name="a", rounds=rounds).encode()).pruning.end_round <= rounds


def test_the_template_tells_the_codec_s_defaults() -> None:
    lines = plan_template(name="a").split("[codec.uplink]")[1].split("[codec.downlink]")[0].splitlines()
    told = dict(line.strip("# ").split("#")[0].split(" = ") for line in lines if "=" in line)
    defaults = codec_from_config({"codec_id": "deadzone"}).get_config()
    assert {key: value.strip().strip('"') for key, value in told.items()} == {
        key: str(value) for key, value in defaults.items()
    }


@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_the_plan_chooses_the_error_feedback(feedback: str) -> None:
    plan = parse_plan(f"{SMALL}[codec]\nfeedback = '{feedback}'\n".encode())
    assert plan.codec.feedback == feedback
    assert parse_plan(plan.to_toml().encode()) == plan
    without = parse_plan(SMALL.encode())
    assert without.codec.feedback == "residual"
    assert (plan.digest == without.digest) == (feedback == "residual")


def test_a_run_from_before_some_settings_were_there_goes_on() -> None:
    settings = parse_plan(SMALL.encode()).settings()
    del settings["codec"]["feedback"], settings["codec"]["residual_decay"]
    del settings["transport"]["max_kbit_s"], settings["model"]["freeze"]
    settings["aggregation"] = {"server_learning_rate": 1.0}
    kept = "policy score budget schedule density initial_density start_round end_round every protect"
    settings["pruning"] = {key: settings["pruning"][key] for key in kept.split()}
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    before = hashlib.blake2b(canonical.encode(), digest_size=16).digest()
    assert parse_plan(SMALL.encode()).digest == before


@pytest.mark.parametrize(
    "codec", ["integer", "trellis", "ternary", "topk", "randk", "uniform", "fp16", "deadzone"]
)
def test_ef21_goes_with_every_codec_that_leaves_something_out(codec: str) -> None:
    text = f"{SMALL}[codec]\nfeedback = 'ef21'\n[codec.uplink]\ncodec_id = '{codec}'"
    if codec == "integer":
        text += "\nstep = 0.001"
    assert parse_plan(text.encode()).uplink_at(1)["codec_id"] == codec


def test_a_codec_s_number_may_move_from_round_to_round() -> None:
    text = "[codec.uplink]\ncodec_id = 'deadzone'\nstep = [8, 2.0]\n"
    text += "[pruning]\npolicy = 'none'\n"
    plan = parse_plan(f"[run]\nname = 'a'\nrounds = 7\n{text}".encode())
    assert [plan.uplink_at(number)["step"] for number in (1, 4, 6, 7, 8)] == pytest.approx([8, 8, 2, 2, 2])
    assert plan.uplink_at(5)["step"] == pytest.approx(8 * 0.25**0.75)
    assert plan.uplink_at(7) == {"codec_id": "deadzone", "step": 2.0}
    assert plan.downlink_at(1) == {"codec_id": "deadzone"}
    assert parse_plan(plan.to_toml().encode()) == plan
    assert parse_plan(f"[run]\nname = 'a'\nrounds = 1\n{text}".encode()).uplink_at(1)["step"] == 8


def test_toml_is_read_back_equal() -> None:
    plan = Plan(
        run=RunSettings(name="a", rounds=30, seed=2**63 - 1),
        training=TrainingSettings(learning_rate=1e-7, momentum=0.9),
        pruning=PruningPolicy(protect=('odd "name"\\\x7f\n', "fc.weight"), density=1 / 3),
        evaluate=EvaluateSettings(data="é.npz"),
    )
    back = parse_plan(plan.to_toml().encode())
    assert back == plan
    assert back.digest == plan.digest


def test_the_digest_is_of_the_settings_alone() -> None:
    plan = parse_plan(SMALL.encode())
    other = parse_plan(b'# hello\n[transport]\nnamespace = "default"\n\n[run]\nseed = 7\nname = "digits"')
    assert plan.digest == other.digest
    assert plan.differences(other) == []
    longer = parse_plan((SMALL + "rounds = 21").encode())
    assert plan.digest != longer.digest
    assert plan.differences(longer) == ["[run] rounds: 20 -> 21"]
    # Pinned: a run directory is tied to it.
    assert plan.digest.hex() == "51e94f80a3968f49d82ea51d7b4deb86"


def test_paths_are_relative_to_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(SMALL + '[evaluate]\ndata = "data/test.npz"\n')
    plan = load_plan(path)
    assert plan.source == path.read_bytes()
    assert plan.template_path == tmp_path / "template.onnx"
    assert plan.evaluate_path == tmp_path / "data" / "test.npz"
    assert parse_plan(SMALL.encode()).evaluate_path is None


def test_a_whole_number_serves_as_a_number() -> None:
    rate = parse_plan((SMALL + "[training]\nlearning_rate = 1").encode()).training.learning_rate
    assert rate == 1.0
    assert isinstance(rate, float)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[run]\nname = 'a'\nrouns = 3", "line 3: [run] rouns is not a known key; did you mean rounds?"),
        (SMALL + "zzz = 3", "line 3: [run] zzz is not a known key; known here: name, rounds, seed"),
        ("[runn]\nname = 'a'", "line 1: runn is not a known table; did you mean run?"),
        ("\n[run]\nseed = 1", "line 2: [run] name is missing"),
        ("", "plan.toml: run is missing"),
        ("run = 3", "[run] must be a table, not the number 3"),
        (SMALL + "rounds = 3.0", "line 3: [run] rounds must be a whole number, not the number 3.0"),
        (SMALL + "rounds = true", "line 3: [run] rounds must be a whole number, not true"),
        (SMALL + "rounds = '3'", 'line 3: [run] rounds must be a whole number, not the text "3"'),
        (SMALL + "rounds = [3]", "line 3: [run] rounds must be a whole number, not a list"),
        (SMALL + "rounds = 1979-05-27", "line 3: [run] rounds must be a whole number, not a date or a time"),
        (SMALL + "seed = 0x8000000000000000", "line 3: [run] seed is too large a number"),
        ("[run]\nname = 3", "line 2: [run] name must be text, not the number 3"),
        (
            "[run]\nname = 'A b'",
            "line 2: [run] name must be 1 to 32 of a-z, 0-9, _ and -, "
            'beginning with a letter or a digit, not "A b"',
        ),
        (SMALL + "[cohort]\nquorum = true", "line 4: [cohort] quorum must be a number, not true"),
        (SMALL + "[codec]\nuplink = 1", "[codec.uplink] must be a table, not the number 1"),
        (
            SMALL + "[codec.uplink]\ncodec_id = 'deadzon'",
            "line 4: [codec.uplink] codec_id is refused: there is no codec 'deadzon'; "
            "did you mean 'deadzone'?",
        ),
        (
            SMALL + "[codec.downlink]\ncodec_id = 'deadzone'\nstap = 1",
            "line 5: [codec.downlink] stap is refused: codec 'deadzone' has no setting 'stap'; "
            "did you mean 'step'?",
        ),
        (
            SMALL + "[codec.uplink]\ncodec_id = 'deadzone'\nstep = [8, 100]",
            "line 5: [codec.uplink] step is refused: codec 'deadzone': "
            "step must be from 0.000976562 to 64, got 100.0",
        ),
        (
            SMALL + "[codec.uplink]\ncodec_id = 'deadzone'\nstep = [8, 0]",
            "line 5: [codec.uplink] step must be a value or two numbers above 0, "
            "[first round's, last round's]",
        ),
        (
            SMALL + "[codec.uplink]\ncodec_id = 'deadzone'\nstep = [8, 4, 2]",
            "line 5: [codec.uplink] step must be a value or two numbers above 0, "
            "[first round's, last round's]",
        ),
        (
            SMALL + "[codec.uplink]\na = 1979-05-27",
            "line 4: [codec.uplink] a must be text, a finite number, true or false, not a date or a time",
        ),
        (
            SMALL + "[codec]\nfeedback = 'ef12'",
            'line 4: [codec] feedback must be one of "ef21", "none", "residual", not "ef12"; '
            'did you mean "ef21"?',
        ),
        (
            SMALL + "[codec]\nfeedback = 'ef21'\n[codec.uplink]\ncodec_id = 'float32'",
            'line 4: [codec] feedback must not be "ef21" when the uplink is "float32": '
            "that leaves nothing out, and a model for each device would be kept "
            'on the coordinator\'s disk for nothing; use "none"',
        ),
        (
            SMALL + "[codec]\nfeedback = 'ef21'\n[codec.uplink]\ncodec_id = 'randk'\nunbiased = true",
            'line 4: [codec] feedback must be "none" when the uplink is unbiased, not "ef21": '
            "error feedback would make it diverge",
        ),
        (
            SMALL + "[codec.downlink]\ncodec_id = 'randk'\nunbiased = true",
            "line 5: [codec.downlink] unbiased must be false: "
            "the coordinator sends later what it left out, which would then diverge",
        ),
        (
            SMALL + "[pruning]\nbudget = 'globe'",
            'line 4: [pruning] budget must be one of "er", "erk", "global", "lamp", "threshold", "uniform", '
            'not "globe"; did you mean "global"?',
        ),
        (
            SMALL + "[pruning]\nprotect = [1]",
            "line 4: [pruning] protect must be a list of texts, not a list with something else in it",
        ),
        (
            SMALL + "rounds = 10\n[pruning]\nend_round = 12",
            "line 5: [pruning] end_round must be at most 10, the number of rounds, not 12: "
            "the run would end before density 0.2 is reached",
        ),
        (SMALL + "rounds = \n", "line 3: not valid TOML: Invalid value"),
        (SMALL + SMALL, "line 3: not valid TOML: Cannot declare ('run',) twice"),
        ("[run", "line 1: not valid TOML: Expected ']' at the end of a table declaration"),
        ("a = " + "[" * 100_000, "plan.toml: is nested too deeply"),
    ],
)
def test_every_mistake_is_a_sentence(text: str, expected: str) -> None:
    message = refusal(text)
    assert message.startswith("plan.toml")
    assert message.endswith(expected)
    assert len(message) < 250


@pytest.mark.parametrize(
    ("table", "line", "rule"),
    [
        ("run", "rounds = 0", "rounds must be at least 1 and at most 99999, not 0"),
        ("run", "seed = -1", "seed must be at least 0, not -1"),
        ("model", "template = ''", "template must be the path of a file"),
        ("model", "init = 'zero'", 'init must be one of "pretrained", "seeded", "template", not "zero"'),
        ("cohort", "min_clients = 0", "min_clients must be at least 1, not 0"),
        (
            "cohort",
            "clients_per_round = 121",
            "clients_per_round must be at least 0 and at most 120, not 121",
        ),
        ("cohort", "quorum = 0", "quorum must be more than 0 and at most 1, not 0.0"),
        ("cohort", "quorum = 1.01", "quorum must be more than 0 and at most 1, not 1.01"),
        ("cohort", "deadline_s = 0.0", "deadline_s must be more than 0, not 0.0"),
        ("cohort", "deadline_s = inf", "deadline_s must be more than 0, not inf"),
        ("cohort", "grace_s = -1", "grace_s must be at least 0, not -1.0"),
        ("cohort", "join_timeout_s = -1", "join_timeout_s must be at least 0, not -1.0"),
        ("cohort", "max_failed_attempts = 0", "max_failed_attempts must be at least 1, not 0"),
        ("training", "epochs = 0", "epochs must be at least 1 and at most 1000, not 0"),
        ("training", "batch_size = 0", "batch_size must be at least 1 and at most 65536, not 0"),
        (
            "training",
            "learning_rate = nan",
            "learning_rate must be more than 0 and at most 1000000.0, not nan",
        ),
        (
            "training",
            "learning_rate_decay = 1.1",
            "learning_rate_decay must be more than 0 and at most 1, not 1.1",
        ),
        ("training", "momentum = 1.0", "momentum must be at least 0 and less than 1, not 1.0"),
        (
            "training",
            "weight_decay = -1.0",
            "weight_decay must be at least 0 and at most 1000000.0, not -1.0",
        ),
        ("training", "proximal_mu = -1.0", "proximal_mu must be at least 0 and at most 1000000.0, not -1.0"),
        (
            "training",
            "max_seconds = -1.0",
            "max_seconds must be at least 0 and at most 100000000.0, not -1.0",
        ),
        ("aggregation", "server_learning_rate = 0", "server_learning_rate must be more than 0, not 0.0"),
        (
            "pruning",
            "policy = 'votes'",
            f'policy must be one of {", ".join(map(json.dumps, sorted(POLICIES)))}, not "votes"',
        ),
        ("pruning", "density = 0", "density must be more than 0 and at most 1, not 0.0"),
        (
            "pruning",
            "initial_density = 0.1",
            "initial_density must be at least 0.2 and at most 1, not 0.1",
        ),
        ("pruning", "start_round = 0", "start_round must be at least 1, not 0"),
        ("pruning", "end_round = 1", "end_round must be at least 2, not 1"),
        ("pruning", "every = 0", "every must be at least 1, not 0"),
        ("evaluate", "every = 0", "every must be at least 1, not 0"),
        ("transport", "chunk_bytes = 1023", "chunk_bytes must be at least 1024 and at most 262144, not 1023"),
    ],
)
def test_every_rule_names_the_value(table: str, line: str, rule: str) -> None:
    text = f"{SMALL}{line}" if table == "run" else f"{SMALL}[{table}]\n{line}"
    number = text.count("\n") + 1
    assert refusal(text).startswith(f"plan.toml, line {number}: [{table}] {rule}")


def test_errors_carry_their_facts() -> None:
    with pytest.raises(SettingError) as caught:
        parse_plan((SMALL + "[cohort]\nquorum = 2").encode(), source="a/plan.toml")
    error = caught.value
    assert (error.source, error.line, error.table, error.key) == ("a/plan.toml", 4, "cohort", "quorum")


def test_files_that_cannot_be_plans(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"plan\.toml: there is no such file"):
        load_plan(tmp_path / "plan.toml")
    with pytest.raises(PlanError, match="cannot be read: Is a directory"):
        load_plan(tmp_path)
    (tmp_path / "large").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(PlanError, match="is larger than 1048576 bytes"):
        load_plan(tmp_path / "large")
    with pytest.raises(PlanError, match=r"plan\.toml, line 2: is not UTF-8 text"):
        parse_plan(b"[run]\nname = '\xff'")
    assert parse_plan(b"\xef\xbb\xbf[run]\r\nname = 'a'\r\n").run.name == "a"


@given(st.text(max_size=60).map(lambda text: SMALL + text))
def test_anything_else_is_a_plan_error(text: str) -> None:
    with contextlib.suppress(PlanError):
        parse_plan(text.encode(errors="replace"))


def test_a_quorum_is_not_raised_by_rounding() -> None:
    cohort = CohortSettings(quorum=0.6)
    assert [cohort.quorum_of(size) for size in (0, 1, 2, 3, 5, 10, 15)] == [1, 1, 2, 2, 3, 6, 9]
    assert CohortSettings(quorum=0.7).quorum_of(10) == 7
    assert CohortSettings(quorum=1.0).quorum_of(7) == 7


def test_the_learning_rate_decays_by_round() -> None:
    training = TrainingSettings(learning_rate=0.5, learning_rate_decay=0.5)
    assert [training.learning_rate_at(number) for number in (1, 2, 4)] == [0.5, 0.25, 0.0625]


def test_only_a_residual_decays() -> None:
    assert parse_plan(f"{SMALL}[codec]\nresidual_decay = 0.5\n".encode()).codec.residual_decay == 0.5
    for text, sentence in (
        ("feedback = 'ef21'\nresidual_decay = 0.5", 'is for feedback = "residual" alone, not for "ef21"'),
        ("residual_decay = 0", "residual_decay must be more than 0"),
    ):
        with pytest.raises(PlanError, match=sentence):
            parse_plan(f"{SMALL}[codec]\n{text}\n".encode())
