"""Records real updates: federated training of small models in torch, one thread, the same for a seed.

Each model gives four cases of two updates each, of different clients and rounds:

raw
    What a client learned in one local epoch of plain SGD, from a partly trained model.
feedback
    The same plus what error feedback still owes, after four and five rounds of dead-zone coding; one client
    codes at a step of 2 (the codec's default), the other at one of 8.
adam
    One local epoch of Adam.
masked
    Under a mask that keeps the largest fifth of the prunable weights: a client's first update, and another
    client's third, with what it owes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.codec.cases import Case, load_case, save_case
from benchmarks.codec.models import LARGE, RECIPES, Data, Recipe
from numpy.typing import NDArray
from torch import nn

from hedgerow_codecs import (
    NO_BASE,
    ErrorFeedback,
    FrameKind,
    Layout,
    Mask,
    codec_from_config,
    encode_frame_with_decoded,
)
from hedgerow_edge_client.parameters import module_layout, read_parameters, write_parameters

VERSION = 1
SEED = 7
KEPT = 0.2
CLIENTS = 2
_STEPS = (2.0, 8.0)

Flat = NDArray[np.float32]


def recorded(cache: Path, *, data: Path | None, wanted: Sequence[str] | None = None) -> list[Case]:
    """Return all cases of the models that have one that is wanted, from the cache or else by training.

    Without `wanted`, or where no name contains any of it, these are all models.
    """
    names = {recipe.name: [f"{recipe.name}/{kind}" for kind in recipe.kinds] for recipe in RECIPES}
    some = [r for r in RECIPES if any(part in name for part in wanted or [] for name in names[r.name])]
    cases: list[Case] = []
    for recipe in some or RECIPES:
        paths = {kind: _path(cache, f"{recipe.name}-{kind}", data=data) for kind in recipe.kinds}
        if not all(path.is_file() for path in paths.values()):
            started = time.monotonic()
            print(f"recording {recipe.name}", file=sys.stderr, flush=True)
            cache.mkdir(parents=True, exist_ok=True)
            for case in _Recorder(recipe, data=data).cases():
                save_case(case, paths[case.name.partition("/")[2]])
            print(
                f"recorded {recipe.name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True
            )
        cases += [load_case(path) for path in paths.values()]
    return cases


def recorded_large(cache: Path, *, data: Path | None) -> Case:
    """Return one update of a ResNet-18: ten steps of SGD, the ten steps before them left out."""
    path = large_path(cache, data=data)
    if not path.is_file():
        print(f"recording {LARGE.name}", file=sys.stderr, flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        recorder = _Recorder(LARGE, data=data)
        vectors = recorder.federate(recorder.start, rounds=2)[1][1]
        save_case(recorder.case("raw", recorder.dense, (vectors[0],)), path)
    return load_case(path)


def large_path(cache: Path, *, data: Path | None) -> Path:
    """Return where `recorded_large` keeps its case."""
    return _path(cache, LARGE.name, data=data)


def _path(cache: Path, name: str, *, data: Path | None) -> Path:
    kind = "digits" if data is None else "packs"
    return cache / f"delta-v{VERSION}-{kind}-seed{SEED}-{name}.npz"


def magnitude_mask(flat: Flat, *, layout: Layout, kept: float) -> Mask:
    """Return the mask that keeps the largest share of all prunable entries together."""
    live = ~layout.prunable()
    candidates = np.flatnonzero(~live)
    count = round(kept * candidates.size)
    order = np.argsort(-np.abs(flat[candidates]), kind="stable")
    live[candidates[order[:count]]] = True
    return Mask(layout=layout, live=live)


class _Recorder:
    """A model, its clients' data, and rounds of federated averaging."""

    def __init__(self, recipe: Recipe, *, data: Path | None) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(SEED)
        self.recipe = recipe
        self.data: Data = recipe.load(data)
        self.model = recipe.build(int(self.data.classes.max()) + 1)
        self.layout = module_layout(self.model)
        self.dense = Mask.dense(self.layout)
        self.start = read_parameters(self.model, self.layout)
        self.rng = np.random.default_rng(SEED)

    def cases(self) -> Iterator[Case]:
        """Train; yield one case for each of the recipe's kinds."""
        models, raw = self.federate(self.start, rounds=3)
        for kind in self.recipe.kinds:
            if kind == "raw":
                yield self.case(kind, self.dense, (raw[1][0], raw[2][1]))
            elif kind == "feedback":
                _, owed = self.federate(models[1], rounds=5, steps=_STEPS)
                yield self.case(kind, self.dense, (owed[3][0], owed[4][1]))
            elif kind == "adam":
                _, adam = self.federate(models[1], rounds=2, adam=True)
                yield self.case(kind, self.dense, (adam[0][0], adam[1][1]))
            else:
                mask = magnitude_mask(models[2], layout=self.layout, kept=KEPT)
                pruned = np.where(mask.live, models[2], np.float32(0))
                _, masked = self.federate(pruned, rounds=3, steps=_STEPS, mask=mask)
                yield self.case(kind, mask, (mask.gather(masked[0][0]), mask.gather(masked[2][1])))

    def case(self, kind: str, mask: Mask, vectors: tuple[Flat, ...]) -> Case:
        return Case(name=f"{self.recipe.name}/{kind}", mask=mask, vectors=vectors, source=self.data.source)

    def federate(
        self,
        flat: Flat,
        *,
        rounds: int,
        steps: Sequence[float] | None = None,
        adam: bool = False,
        mask: Mask | None = None,
    ) -> tuple[list[Flat], list[list[Flat]]]:
        """Run rounds; return the model after each, and in each what every client had to send.

        With `steps`, client `i` codes what it has to send at its step and keeps what that leaves out.
        """
        mask = mask or self.dense
        models: list[Flat] = []
        to_send: list[list[Flat]] = []
        owed = [ErrorFeedback.zero(self.layout) for _ in range(CLIENTS)]
        for _ in range(rounds):
            wanted, received = [], []
            for client in range(CLIENTS):
                wanted.append(owed[client].compensate(self._learn(flat, client=client, adam=adam, mask=mask)))
                sent = wanted[-1]
                if steps is not None:
                    sent = _coded(sent, mask=mask, step=steps[client])
                    owed[client] = owed[client].after(wanted[-1], sent)
                received.append(sent)
            flat = flat + np.mean(received, axis=0, dtype=np.float32)
            models.append(flat)
            to_send.append(wanted)
        return models, to_send

    def _learn(self, flat: Flat, *, client: int, adam: bool, mask: Mask) -> Flat:
        """Train one local epoch; return the difference, 0 where nothing is live."""
        write_parameters(self.model, self.layout, flat)
        self.model.train()
        live = self.layout.split(mask.live.astype(np.float32))
        masks = {name: torch.from_numpy(part.copy()) for name, part in live.items()}
        rate = self.recipe.learning_rate
        optimizer = (
            torch.optim.Adam(self.model.parameters(), lr=0.001)
            if adam
            else torch.optim.SGD(self.model.parameters(), lr=rate)
        )
        mine = self.rng.permutation(np.flatnonzero(self.data.owners == client))[: self.recipe.samples]
        for first in range(0, len(mine), self.recipe.batch):
            batch = mine[first : first + self.recipe.batch]
            if len(batch) < 2:  # batch-norm cannot learn from one sample
                continue
            optimizer.zero_grad()
            outputs = self.model(torch.from_numpy(self.data.inputs[batch]))
            loss = nn.functional.cross_entropy(outputs, torch.from_numpy(self.data.classes[batch]))
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.mul_(masks[name])
        learned = read_parameters(self.model, self.layout)
        if not np.all(np.isfinite(learned)):
            raise RuntimeError(f"{self.recipe.name} diverged: its learning rate is too high")
        return learned - flat


def _coded(flat: Flat, *, mask: Mask, step: float) -> Flat:
    codec = codec_from_config({"codec_id": "deadzone", "step": step})
    _, decoded = encode_frame_with_decoded(
        mask.gather(flat), kind=FrameKind.UPDATE, mask=mask, base=NO_BASE, codec=codec
    )
    return mask.scatter(decoded.values())
