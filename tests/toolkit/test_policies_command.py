"""`hedgerow policies`, and recipes by `hedgerow init`."""

import json
from pathlib import Path

import pytest

from hedgerow.main import main
from hedgerow_coordinator.plan import load_plan
from hedgerow_coordinator.pruning import POLICIES, RECIPES, SCORES, TIERS_BY

TASK = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 5))

def load_data(data, client):
    return torch.randn(8, 40), torch.arange(8) % 5

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""


def test_everything_is_listed_with_source_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies"]) == 0
    printed = capsys.readouterr().out
    for name in (*POLICIES, *TIERS_BY, *SCORES, *RECIPES):
        assert f"  {name} " in printed, name
    assert main(["policies", "--json"]) == 0
    lists = json.loads(capsys.readouterr().out)
    assert list(lists) == [
        "policy",
        "tier_by",
        "score, grow",
        "channel_score",
        "budget",
        "schedule",
        "recipe",
    ]
    assert lists["score, grow"]["magnitude"]["traffic"] == "nothing"
    assert lists["score, grow"]["gradient"]["traffic"].startswith("up: a score for every weight")
    assert all(facts["meaning"] and facts["source"] for facts in lists["recipe"].values())


def test_init_writes_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tmp_path / "task.py"
    task.write_text(TASK)
    arguments = ["init", str(task), "--output", str(tmp_path / "out"), "--rounds", "12"]
    assert main([*arguments, "--recipe", "fedst"]) == 2
    assert "there is no recipe 'fedst'; did you mean feddst?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--recipe", "feddst"]) == 0
    text = (tmp_path / "out" / "plan.toml").read_text()
    assert text.startswith("# feddst: each device swaps weak weights")
    assert 'codec_id = "float32"        # others: trellis' in text
    plan = load_plan(tmp_path / "out" / "plan.toml")
    assert plan.pruning.policy == "vote"
    assert plan.run.rounds == 12
