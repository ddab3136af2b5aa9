"""The user's task file: what it must define, read and checked without guessing.

`scan_task` reads the file as text and needs no torch; `load_task` runs it.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hedgerow_edge_client.errors import EdgeClientError, TaskError
from hedgerow_export import MetricError, find_metric

if TYPE_CHECKING:
    import torch

    from hedgerow_edge_client.samples import Samples

REQUIRED = {"build_model": "()", "load_data": "(data, client)", "loss": "(outputs, targets)"}
OPTIONAL = {"load_test_data": "(data)", "load_held_out": "(data, client)"}
_NOT_INSTALLED = {"torch": "pip install 'hedgerow[edge]'"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a task file defines.

    Parameters
    ----------
    path
        The file.
    build_model, load_data, loss, load_test_data, load_held_out
        The user's functions; call them through the methods, which turn their failures into sentences.
    metric
        Name of the metric that the outcome is judged by.
    protect
        Names of tensors that are never pruned.
    freeze
        Patterns of tensors that are not trained, for the plan that `hedgerow init` writes.
    """

    path: Path
    build_model: Callable[[], Any]
    load_data: Callable[[Path | None, str], Any]
    loss: Callable[[Any, Any], Any]
    load_test_data: Callable[[Path | None], Any] | None = None
    load_held_out: Callable[[Path | None, str], Any] | None = None
    metric: str = "accuracy"
    protect: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()

    def model(self) -> torch.nn.Module:
        """Build the user's model.

        Raises
        ------
        TaskError
            `build_model` raises, or returns something else than a module.
        """
        import torch

        with self.blame("build_model"):
            module = self.build_model()
        if not isinstance(module, torch.nn.Module):
            raise TaskError(
                f"build_model returns a {type(module).__name__}: return a torch.nn.Module", path=self.path
            )
        return module

    def samples(self, data: Path | None, *, client: str) -> Samples:
        """Load this client's training data; raises `TaskError`, `EmptyData` when there is none."""
        return self._samples("load_data", lambda: self.load_data(data, client))

    def test_samples(self, data: Path | None) -> Samples | None:
        """Load the test data; None when the task has none. Raises as `samples`."""
        load = self.load_test_data
        return None if load is None else self._samples("load_test_data", lambda: load(data))

    def held_out(self, data: Path | None, *, client: str) -> Samples | None:
        """Load what this client does not train on; None when that is left to us. Raises as `samples`."""
        load = self.load_held_out
        return None if load is None else self._samples("load_held_out", lambda: load(data, client))

    @contextmanager
    def blame(self, what: str) -> Iterator[None]:
        """Turn what the user's code raises in this block into a `TaskError` that names its line.

        Running out of memory is not the code's fault and passes through.
        """
        try:
            yield
        except TaskError as error:
            if error.path is not None:
                raise
            raise type(error)(str(error), path=self.path) from error
        except (EdgeClientError, MemoryError):
            raise
        # A user's function may raise anything, and sys.exit() in it must not end us without a word.
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise MemoryError(f"not enough memory in {what}") from error
            line = _line_in(error, self.path)
            raise TaskError(f"{what} failed: {_describe(error)}", path=self.path, line=line) from error

    def _samples(self, source: str, load: Callable[[], object]) -> Samples:
        from hedgerow_edge_client.samples import make_samples

        with self.blame(source):
            return make_samples(load(), source=source)


def scan_task(path: Path) -> frozenset[str]:
    """Check a task file as text, without running it or loading torch.

    Returns
    -------
    frozenset of str
        The names that its top level defines.

    Raises
    ------
    TaskError
        No such file, a syntax error, or a required name is missing.
    """
    _, names, complete = _parse(path)
    if complete:
        _check_names(path, names)
    return names


def load_task(path: Path) -> Task:
    """Run a task file, under a private module name, and check what it defines.

    Raises
    ------
    TaskError
        One sentence with the file, the line where it is known, what was found and what to do.
    """
    tree, _, _ = _parse(path)
    module = _run(path, tree)
    _check_names(path, frozenset(name for name in vars(module) if not name.startswith("__")))
    functions = {}
    for name, parameters in {**REQUIRED, **OPTIONAL}.items():
        function = getattr(module, name, None)
        if function is not None or name in REQUIRED:
            functions[name] = _checked_function(path, name, function, parameters)
    return Task(
        path=path,
        metric=_checked_metric(path, getattr(module, "metric", "accuracy")),
        protect=_checked_names(path, "protect", getattr(module, "protect", ())),
        freeze=_checked_names(path, "freeze", getattr(module, "freeze", ())),
        **functions,
    )


def _parse(path: Path) -> tuple[ast.Module, frozenset[str], bool]:
    """Return the tree, the names of its top level, and whether those are all (no star import)."""
    try:
        source = path.read_bytes()
    except FileNotFoundError as error:
        raise TaskError(
            "there is no such file: give the path of a task file (see the README's example)", path=path
        ) from error
    except IsADirectoryError as error:
        raise TaskError(
            "this is a directory: name the task file in it, such as task.py", path=path
        ) from error
    except OSError as error:
        raise TaskError(f"it cannot be read ({error.strerror or error})", path=path) from error
    try:
        tree = ast.parse(source, filename=str(path))
    except SyntaxError as error:
        raise TaskError(
            f"Python cannot read this line ({error.msg})", path=path, line=error.lineno
        ) from error
    except ValueError as error:  # null bytes
        raise TaskError(f"this is no Python source ({error})", path=path) from error
    names = set(_bound(tree.body))
    return tree, frozenset(names - {"*"}), "*" not in names


def _bound(body: Sequence[ast.stmt]) -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield statement.name
                continue  # what is inside is not the top level
            case ast.Import() | ast.ImportFrom():
                for alias in statement.names:
                    yield alias.asname or alias.name.partition(".")[0]
            case _:
                for node in ast.walk(statement):
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                        yield node.id
        for part in ("body", "orelse", "finalbody"):
            yield from _bound(getattr(statement, part, []))
        for handler in getattr(statement, "handlers", []):
            yield from _bound(handler.body)


def _check_names(path: Path, names: frozenset[str]) -> None:
    for name, parameters in REQUIRED.items():
        if name in names:
            continue
        close = difflib.get_close_matches(
            name, sorted(names - REQUIRED.keys() - OPTIONAL.keys()), n=1, cutoff=0.5
        )
        hint = f" (there is '{close[0]}': is that it?)" if close else ""
        raise TaskError(f"it does not define {name}{parameters}{hint}: add that function", path=path)


def _run(path: Path, tree: ast.Module) -> types.ModuleType:
    # The name differs by path, so that two tasks in one process do not mix; data classes look it up.
    name = "_hedgerow_task_" + blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        # At the end: files beside the task can be imported, but cannot take the place of a package.
        sys.path.append(folder)
    try:
        exec(compile(tree, str(path), "exec", dont_inherit=True), module.__dict__)
    except ModuleNotFoundError as error:
        package = (error.name or "?").partition(".")[0]
        remedy = _NOT_INSTALLED.get(package, f"pip install {package}, or put the file beside the task")
        line = _line_in(error, path)
        sentence = f"it imports '{error.name}', which is not here: {remedy}"
        raise TaskError(sentence, path=path, line=line) from error
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # the file may do anything
        line = _line_in(error, path)
        raise TaskError(f"it cannot be loaded: {_describe(error)}", path=path, line=line) from error
    return module


def _checked_function(path: Path, name: str, value: object, parameters: str) -> Callable[..., Any]:
    if not callable(value):
        raise TaskError(
            f"'{name}' is a {type(value).__name__}: make it a function {name}{parameters}", path=path
        )
    code = getattr(value, "__code__", None)
    line = code.co_firstlineno if code is not None and code.co_filename == str(path) else None
    if inspect.iscoroutinefunction(value):
        raise TaskError(f"'{name}' is async: make it a plain function", path=path, line=line)
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError):  # some functions written in C have none
        return value
    try:
        signature.bind(*[None] * (parameters.count(",") + 1 if parameters != "()" else 0))
    except TypeError as error:
        raise TaskError(
            f"{name}{signature} cannot be called as {name}{parameters} ({error}): change its parameters",
            path=path,
            line=line,
        ) from error
    return value


def _checked_metric(path: Path, value: object) -> str:
    if not isinstance(value, str):
        raise TaskError(
            f"'metric' is a {type(value).__name__}: make it a name such as \"accuracy\"", path=path
        )
    try:
        return find_metric(value).name
    except MetricError as error:
        raise TaskError(f"'metric': {error}", path=path) from error


def _checked_names(path: Path, key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TaskError(f"'{key}' is a string: write {key} = (\"{value}\",)", path=path)
    if not isinstance(value, (tuple, list, set, frozenset)) or not all(isinstance(n, str) for n in value):
        raise TaskError(f"'{key}' must be a tuple of tensor names", path=path)
    return tuple(sorted(value) if isinstance(value, (set, frozenset)) else value)


def _line_in(error: BaseException, path: Path) -> int | None:
    """Return the line of the task file that was running, or, in a syntax error, cannot be read."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return lines[-1] if lines else None


def _describe(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it calls sys.exit()"
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError in {error.filename}, line {error.lineno}: {error.msg}"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first:.300}" if first else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left."""
    # Torch's allocator for the CPU raises a plain RuntimeError.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
