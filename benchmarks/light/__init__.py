"""Real coordinators and clients whose training is a rule: quick to start, equal to the bit each time."""

from __future__ import annotations

from benchmarks.light.agents import lead, light_layout, light_plan, take_part
from benchmarks.light.trainer import LightTrainer

__all__ = ["LightTrainer", "lead", "light_layout", "light_plan", "take_part"]
