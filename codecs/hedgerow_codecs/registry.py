"""The one table of codecs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hedgerow_codecs.bits import BitsCodec
from hedgerow_codecs.codec import Codec
from hedgerow_codecs.config import check_keys, unknown
from hedgerow_codecs.deadzone import DeadzoneCodec
from hedgerow_codecs.errors import ConfigError
from hedgerow_codecs.float32 import Float32Codec
from hedgerow_codecs.fp16 import Fp16Codec
from hedgerow_codecs.integer import IntegerCodec
from hedgerow_codecs.randk import RandKCodec
from hedgerow_codecs.ternary import TernaryCodec
from hedgerow_codecs.topk import TopKCodec
from hedgerow_codecs.trellis import TrellisCodec
from hedgerow_codecs.uniform import UniformCodec

# The number of a codec is its byte in a frame (SPEC.md); it is never given to another one.
CODECS: Mapping[int, type[Any]] = {
    1: Float32Codec,
    2: Fp16Codec,
    3: UniformCodec,
    4: DeadzoneCodec,
    5: TopKCodec,
    6: IntegerCodec,
    7: TernaryCodec,
    8: RandKCodec,
    9: TrellisCodec,
    10: BitsCodec,
}


def codec_from_config(config: Mapping[str, object]) -> Codec:
    """Make a codec from its JSON configuration.

    Settings that are not given have their defaults.

    Raises
    ------
    ConfigError
        Unknown id or key (names the nearest known one), or a value out of range.

    Examples
    --------
    >>> codec_from_config({"codec_id": "uniform", "bits": 4})
    UniformCodec(bits=4)
    """
    codec_id = config.get("codec_id")
    types = {codec.codec_id: codec for codec in CODECS.values()}
    if not isinstance(codec_id, str):
        raise ConfigError(f"a codec needs a codec_id: {', '.join(sorted(types))}", key="codec_id")
    if codec_id not in types:
        raise unknown("there is no codec", codec_id, types)
    check_keys(config, codec_id=codec_id, known=[f.name for f in fields(types[codec_id])])
    codec: Codec = types[codec_id](**{key: value for key, value in config.items() if key != "codec_id"})
    return codec


def codec_number(codec: Codec) -> int:
    """Return the number that stands for a codec in a frame."""
    for number, known in CODECS.items():
        if known.codec_id == codec.codec_id:
            return number
    raise unknown("there is no codec", codec.codec_id, [known.codec_id for known in CODECS.values()])
