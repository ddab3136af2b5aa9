"""The house as design says it: who may import whom, what is loaded when, what a package shows."""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Which of our packages each package may import; itself always.
MAY_IMPORT = {
    "hedgerow_codecs": set(),
    "hedgerow_transport": set(),
    "hedgerow_devices": set(),
    "hedgerow_export": {"hedgerow_codecs"},
    "hedgerow_coordinator": {"hedgerow_codecs", "hedgerow_transport", "hedgerow_devices", "hedgerow_export"},
    "hedgerow_edge_client": {"hedgerow_codecs", "hedgerow_transport", "hedgerow_devices", "hedgerow_export"},
    "hedgerow": {
        "hedgerow_codecs",
        "hedgerow_transport",
        "hedgerow_devices",
        "hedgerow_coordinator",
        "hedgerow_edge_client",
        "hedgerow_export",
    },
}
FOLDERS = {package: package.removeprefix("hedgerow_") for package in MAY_IMPORT} | {"hedgerow": "toolkit"}

# The files that may import torch. All others leave it to a child process, or do without.
TORCH_FILES = {
    "hedgerow/demo/digits_task.py",
    "hedgerow/pretrained.py",
    "hedgerow_devices/matrix_trial.py",
    "hedgerow_edge_client/activations.py",
    "hedgerow_edge_client/candidates.py",
    "hedgerow_edge_client/descent.py",
    "hedgerow_edge_client/forward.py",
    "hedgerow_edge_client/freezing.py",
    "hedgerow_edge_client/held_out.py",
    "hedgerow_edge_client/information.py",
    "hedgerow_edge_client/label_mask.py",
    "hedgerow_edge_client/mask_descent.py",
    "hedgerow_edge_client/parameters.py",
    "hedgerow_edge_client/samples.py",
    "hedgerow_edge_client/scores.py",
    "hedgerow_edge_client/shaping.py",
    "hedgerow_edge_client/task.py",
    "hedgerow_edge_client/ticket.py",
    "hedgerow_edge_client/training.py",
    "hedgerow_edge_client/width_scaling.py",
    "hedgerow_edge_client/workbench.py",
    "hedgerow_export/exporter_failure.py",
    "hedgerow_export/template.py",
}
HEAVY = ("torch", "onnx", "onnxruntime", "matplotlib", "rich", "sklearn", "cryptography")


def sources(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield (path below the source root, syntax tree) of a package's files."""
    root = ROOT / FOLDERS[package]
    for path in sorted((root / package).rglob("*.py")):
        yield path.relative_to(root).as_posix(), ast.parse(path.read_bytes(), filename=str(path))


def imported(tree: ast.Module) -> set[str]:
    """Return the first names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    files = dict(sources(package))
    assert f"{package}/__init__.py" in files
    wrong = {
        path: sorted(forbidden)
        for path, tree in files.items()
        if (forbidden := (imported(tree) & set(MAY_IMPORT)) - MAY_IMPORT[package] - {package})
    }
    assert wrong == {}


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_torch_is_imported_only_where_it_must_be(package: str) -> None:
    assert {path for path, tree in sources(package) if "torch" in imported(tree)} <= TORCH_FILES


def test_paho_is_imported_in_one_file_only() -> None:
    users = {path for package in MAY_IMPORT for path, tree in sources(package) if "paho" in imported(tree)}
    assert users == {"hedgerow_transport/mqtt_connection.py"}


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_is_typed_and_no_source_root_is_one(package: str) -> None:
    root = ROOT / FOLDERS[package]
    assert (root / package / "py.typed").is_file()
    assert not (root / "__init__.py").exists()


@pytest.mark.parametrize("package", sorted(set(MAY_IMPORT) - {"hedgerow"}))
def test_public_names_exist_and_are_sorted(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__, key=_ruff_order)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def _ruff_order(name: str) -> tuple[int, str]:
    """Order as ruff keeps `__all__`: constants, then classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    script = f"import sys, {package}; print([name for name in {HEAVY!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_command_line_loads_nothing_heavy_before_it_must() -> None:
    script = f"import sys, hedgerow.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_gateway_needs_no_torch_and_the_base_is_small() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {extra: " ".join(wanted) for extra, wanted in project["optional-dependencies"].items()}
    assert "torch" not in names["gateway"]
    assert "torch" in names["edge"]
    assert "!=2.10.*" in names["edge"]
    base = sorted(text.partition(">")[0] for text in project["dependencies"])
    assert base == ["msgpack", "numpy", "paho-mqtt", "psutil", "safetensors"]
