"""Two frames as one blob, cut anywhere and with every length."""

import pytest

from hedgerow_codecs import FrameError, bundle, unbundle


@pytest.mark.parametrize("update", [b"", b"u", bytes(300)])
@pytest.mark.parametrize("answer", [b"", b"a", bytes(70_000)])
def test_what_is_bundled_comes_out(update: bytes, answer: bytes) -> None:
    assert unbundle(bundle(update, answer)) == (update, answer)
    assert len(bundle(update, answer)) == len(update) + len(answer) + 4


def test_every_length_that_lies_is_refused() -> None:
    for size in range(4):
        with pytest.raises(FrameError, match="cannot hold a second frame"):
            unbundle(bytes(size))
    blob = bundle(b"update", b"scores")
    for length in (13, 255, 2**32 - 1):
        with pytest.raises(FrameError, match=f"cannot hold a second frame of {length}"):
            unbundle(blob[:-4] + length.to_bytes(4, "little"))
    assert unbundle(blob[:-4] + (12).to_bytes(4, "little")) == (b"", b"updatescores")
