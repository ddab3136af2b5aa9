"""One sentence out of the pages that torch's exporter writes when it fails."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hedgerow_export.errors import TemplateError


def explain_failure(error: Exception, parts: Mapping[str, object]) -> TemplateError:
    """Say which operator failed, in which submodule, and why.

    Parameters
    ----------
    error : Exception
        What the exporter raised, with its chain of causes.
    parts : Mapping[str, object]
        The submodules by name; ``""`` is the module itself.
    """
    chain = _chain(error)
    text = "\n".join(str(link) for link in chain)
    name = _failing_part(chain, parts)
    where = f"submodule {name!r} ({type(parts[name]).__name__})" if name else "the module"
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text)
    if operator:
        return TemplateError(
            f"Operator {operator[1]} in {where} has no counterpart in ONNX; compute it another way.",
            module=name,
        )
    if "data-dependent" in text or "DataDependent" in text:
        return TemplateError(
            f"The code of {where} takes a branch or a size that depends on the values of its inputs, which a "
            "graph cannot do; use torch.where, or a fixed size.",
            module=name,
        )
    return TemplateError(f"torch's exporter failed in {where}: {first_line(chain[-1])}", module=name)


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    return chain


def explain_crash(error: Exception, parts: Mapping[str, object], *, shape: tuple[int, ...]) -> TemplateError:
    """Say which submodule fails when the module itself is called, on an input of which shape."""
    name = _failing_part(_chain(error), parts)
    where = f"Submodule {name!r}" if name else "The module"
    return TemplateError(f"{where} fails on an input of shape {shape}: {first_line(error)}", module=name)


def first_line(error: BaseException) -> str:
    """Return the first line of a message that may have pages of them, and the error's type without one."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _failing_part(chain: Sequence[BaseException], parts: Mapping[str, object]) -> str | None:
    """Return the name of the innermost submodule whose code was running when the errors arose."""
    names = {id(part): name for name, part in parts.items() if name}
    found: str | None = None
    for error in reversed(chain):
        trace = error.__traceback__
        while trace is not None:
            values = trace.tb_frame.f_locals
            found = names.get(id(values.get("self")), found)
            meta = getattr(values.get("node"), "meta", None)  # translating a node of the traced graph
            stack = meta.get("nn_module_stack") if isinstance(meta, Mapping) else None
            if stack:
                path = str(next(reversed(stack.values()))[0]).removeprefix("L['self'].")
                found = path if path in names.values() else found
            trace = trace.tb_next
        if found is not None:
            return found
    return None
