"""The real agents of both sides, led to a model that needs no ONNX and a trainer that needs no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.light.trainer import GRID, LightTrainer, light_layout, state_of
from numpy.typing import NDArray

import hedgerow_coordinator.agent as coordinator_agent
from hedgerow_coordinator import CoordinatorAgent, Outcome, Plan, open_run, parse_plan
from hedgerow_coordinator.plan import (
    CodecSettings,
    CohortSettings,
    ModelSettings,
    RunSettings,
    TransportSettings,
)
from hedgerow_coordinator.pruning import PruningPolicy
from hedgerow_edge_client import ClientAgent, ClientSettings, Leave
from hedgerow_transport import Credentials

# Looked at, never run.
TASK = """def build_model(): ...
def load_data(data, client): ...
def loss(outputs, targets): ...
"""
EXACT = {"codec_id": "float32"}


def light_plan(
    *,
    rounds: int,
    clients: int,
    uplink: dict[str, object] | None = None,
    downlink: dict[str, object] | None = None,
    transport: dict[str, Any] | None = None,
    **cohort: Any,
) -> Plan:
    """Return a plan whose rounds need all of its clients; further keywords are keys of ``[cohort]``."""
    plan = Plan(
        run=RunSettings(name="light", rounds=rounds),
        model=ModelSettings(init="template"),
        cohort=CohortSettings(
            **{
                "min_clients": clients,
                "quorum": 1.0,
                "max_failed_attempts": 1000,
                "join_timeout_s": 0.0,
                **cohort,
            }
        ),
        codec=CodecSettings(uplink=uplink or EXACT, downlink=downlink or EXACT),
        pruning=PruningPolicy(policy="none"),
        transport=TransportSettings(**(transport or {})),
    )
    # What is kept with a run is the plan's file.
    return parse_plan(plan.to_toml().encode())


def first_weights(num_parameters: int) -> NDArray[np.float32]:
    """Return weights of which no coder makes less than 16 bits each."""
    steps = np.random.default_rng(11).integers(-32768, 32768, light_layout(num_parameters).num_parameters)
    return (steps / GRID).astype(np.float32)


def _held_weights(template: bytes) -> NDArray[np.float32]:
    return np.frombuffer(template, np.float32)


def lead(
    plan: Plan,
    *,
    broker: str,
    run_dir: Path,
    num_parameters: int,
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
    credentials: Credentials | None = None,
) -> Outcome:
    """Lead a run, or go on with it, as ``hedgerow coordinator --wait`` does."""
    # The template is the weights themselves; an ONNX model would have to be made with torch.
    coordinator_agent._template_weights = _held_weights
    template = first_weights(num_parameters).tobytes()
    with open_run(plan, directory=run_dir, template=template, run_id="light") as store:
        layout = light_layout(num_parameters)
        agent = CoordinatorAgent(
            plan,
            broker=broker,
            store=store,
            layout=layout,
            say=say,
            wait_for_broker=True,
            credentials=credentials,
        )
        return agent.run(stop or threading.Event())


def take_part(
    name: str,
    *,
    broker: str,
    folder: Path,
    trainer: LightTrainer,
    namespace: str = "default",
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
    credentials: Credentials | None = None,
) -> Leave | None:
    """Follow a run to its end, as ``hedgerow client --once --wait`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    # One for each: another process may be reading its own just now.
    task = folder / f"{name}_task.py"
    task.write_text(TASK)
    settings = ClientSettings(
        task=task,
        broker=broker,
        data=None,
        name=name,
        directory=state_of(folder, name),
        namespace=namespace,
        once=True,
        wait_for_broker=True,
        credentials=credentials,
    )
    agent = ClientAgent(settings, say=say)
    agent._trainer = trainer  # type: ignore[assignment]
    return agent.run(stop or threading.Event())
