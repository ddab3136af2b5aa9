"""Modules to export, each exported once for the whole run."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hedgerow_export
from hedgerow_codecs import Layout, TensorSpec
from hedgerow_export import make_template, write_atomically

torch.set_num_threads(1)


class SmallCNN(nn.Module):
    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, bias=not norm)
        self.norm1 = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.norm2 = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.fc1 = nn.Linear(32, 16)
        self.fc2 = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(y + self.norm2(self.conv2(y)))
        return self.head(y.mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.gru(x)
        return self.head(steps[:, -1])


def make_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))


def layout_of(module: nn.Module) -> Layout:
    return Layout(
        tensors=tuple(
            TensorSpec(name=name, shape=tuple(tensor.shape), kind="other", prunable=tensor.ndim > 1)
            for name, tensor in module.state_dict().items()
            if tensor.is_floating_point()
        )
    )


@dataclass(frozen=True)
class Exported:
    """A module in evaluation mode, its template, and a few inputs."""

    module: nn.Module = field(repr=False)
    layout: Layout = field(repr=False)
    inputs: np.ndarray = field(repr=False)
    template: bytes = field(repr=False)

    def flat(self) -> np.ndarray:
        state = self.module.state_dict()
        return self.layout.join({spec.name: state[spec.name].numpy() for spec in self.layout.tensors})

    def eager(self, flat: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """Return the module's own outputs under other weights, the module left as it was."""
        own = self.flat()
        try:
            self._load(flat)
            with torch.no_grad():
                return self.module(torch.from_numpy(inputs)).numpy()
        finally:
            self._load(own)

    def _load(self, flat: np.ndarray) -> None:
        parts = {name: torch.from_numpy(part.copy()) for name, part in self.layout.split(flat).items()}
        self.module.load_state_dict(parts, strict=False)


BUILDERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (SmallCNN, (1, 14, 14)),
    "cnn with norm": (lambda: SmallCNN(norm=True), (1, 14, 14)),
    "mlp": (make_mlp, (6,)),
    "mlp over steps": (make_mlp, (5, 6)),
    "residual": (Residual, (1, 8, 8)),
    "gru": (Recurrent, (6, 3)),
}
_folder = Path()


def pytest_configure(config: pytest.Config) -> None:
    global _folder
    _folder = Path(config.cache.mkdir("hedgerow-templates"))


_made: dict[str, Exported] = {}


def _load_architectures() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """Load the file beside this one; tests are no package, so it cannot be imported by name."""
    spec = importlib.util.spec_from_file_location(
        "architectures", Path(__file__).with_name("architectures.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ARCHITECTURES


ARCHITECTURES = _load_architectures()


def _template(name: str, module: nn.Module, inputs: np.ndarray, layout: Layout) -> bytes:
    """Return a module's template, out of pytest's cache where one was made by the very same sources."""
    made_by = ("template", "tidying", "filling", "metadata", "model_proto", "seal")
    sources = [Path(hedgerow_export.__file__).with_name(f"{stem}.py") for stem in made_by]
    sources += [Path(__file__), Path(__file__).with_name("architectures.py")]
    digest = blake2b(f"{name} {torch.__version__} {onnx.__version__}".encode(), digest_size=16)
    for path in sources:
        digest.update(path.read_bytes())
    kept = _folder / f"{digest.hexdigest()}.onnx"
    if not kept.is_file():
        write_atomically(kept, make_template(module, inputs, layout=layout))
    return kept.read_bytes()


def _build(name: str) -> Exported:
    if name not in _made:
        torch.manual_seed(7)
        builder, shape = BUILDERS.get(name) or ARCHITECTURES[name]
        module = builder().eval()
        inputs = np.random.default_rng(7).standard_normal((6, *shape)).astype(np.float32)
        layout = layout_of(module)
        template = _template(name, module, inputs, layout)
        _made[name] = Exported(module=module, layout=layout, inputs=inputs, template=template)
    return _made[name]


@pytest.fixture(scope="session", params=list(BUILDERS))
def exported(request: pytest.FixtureRequest) -> Exported:
    return _build(request.param)


@pytest.fixture(scope="session")
def mlp() -> Exported:
    return _build("mlp")


@pytest.fixture(scope="session")
def residual() -> Exported:
    return _build("residual")


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> Exported:
    return _build(request.param)


@pytest.fixture(scope="session")
def build() -> Callable[[str], Exported]:
    """Return a function from a name to the exported module of that name."""
    return _build
