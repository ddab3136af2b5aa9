import pytest

from hedgerow_export.exporter_failure import explain_crash, explain_failure, first_line


class Part:
    """Stands for a submodule: the sentence needs its name, its type and its frame in the traceback."""

    def forward(self, error):
        raise error


def raised_in(part: Part, error: Exception) -> Exception:
    """Return the error that wraps one raised by a submodule, as the exporter wraps what it meets."""
    try:
        try:
            part.forward(error)
        except Exception as inner:
            raise RuntimeError("Failed to export the model.\nThis is step 1/3.\n" + "page\n" * 50) from inner
    except RuntimeError as outer:
        return outer
    raise AssertionError


PARTS = {"": object(), "body": Part(), "body.conv": Part()}


def test_innermost_reason_and_submodule_are_told():
    failure = explain_failure(raised_in(PARTS["body.conv"], ValueError("\nno such stride\nmore")), PARTS)
    assert str(failure) == "torch's exporter failed in submodule 'body.conv' (Part): no such stride"
    assert failure.module == "body.conv"


def test_missing_operator_is_named():
    text = "No ONNX function found for <OpOverload(op='aten.bincount', overload='default')>. And more."
    failure = explain_failure(raised_in(PARTS["body"], ValueError(text)), PARTS)
    assert str(failure) == (
        "Operator aten.bincount in submodule 'body' (Part) has no counterpart in ONNX; "
        "compute it another way."
    )


def test_failure_outside_of_every_submodule():
    failure = explain_failure(ValueError("odd"), PARTS)
    assert str(failure) == "torch's exporter failed in the module: odd"
    assert failure.module is None


def test_causes_that_form_a_circle_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert str(explain_failure(first, PARTS)).endswith(": b")


def test_submodule_of_a_translated_node_is_told():
    class Node:
        meta = {"nn_module_stack": {"k0": ("", Part), "k1": ("body.conv", Part)}}  # noqa: RUF012 - as torch has it

    def translate(node):
        raise KeyError("shape")

    with pytest.raises(KeyError) as caught:
        translate(Node())
    assert explain_failure(caught.value, PARTS).module == "body.conv"


def test_crash_of_the_module_itself():
    with pytest.raises(ValueError, match="mat1") as caught:
        PARTS["body"].forward(ValueError("mat1 and mat2 cannot be multiplied"))
    crash = explain_crash(caught.value, PARTS, shape=(5, 3))
    assert str(crash) == (
        "Submodule 'body' fails on an input of shape (5, 3): mat1 and mat2 cannot be multiplied"
    )
    assert crash.module == "body"


def test_first_line_of_an_empty_message_is_the_type():
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 300
