"""A digest at the end of a model file, so that damage is found before the model is used.

protobuf finds a cut file most of the time and a flipped bit in a weight never. The seal is a last
``metadata_props`` entry of `ModelProto` (field 14, key ``hedgerow.seal``) whose value is the blake2b-128 of
all bytes before it, in hexadecimal. protobuf messages can be concatenated, so every reader of ONNX takes
the entry for ordinary metadata. A tool that saves the model anew moves the entry or changes the bytes
before it: then there is no seal at the end, and the model is one of another's making.
"""

from __future__ import annotations

from hashlib import blake2b

from hedgerow_export.errors import ModelError

SEAL_KEY = "hedgerow.seal"
_DIGEST_BYTES = 16
_KEY = SEAL_KEY.encode()
_ENTRY = bytes([0x0A, len(_KEY)]) + _KEY + bytes([0x12, 2 * _DIGEST_BYTES])
# Tag of field 14 (length-delimited), length of the entry, then key and value with their own tags.
_PREFIX = bytes([14 << 3 | 2, len(_ENTRY) + 2 * _DIGEST_BYTES]) + _ENTRY
SEAL_BYTES = len(_PREFIX) + 2 * _DIGEST_BYTES


def seal(data: bytes) -> bytes:
    """Return a serialised model with its seal appended; the model must not carry one already."""
    return data + _PREFIX + _digest(data)


def check_seal(data: bytes) -> bool:
    """Tell whether a model ends in a seal.

    Raises
    ------
    ModelError
        It does, and the bytes before it are not the ones that were sealed.
    """
    body, tail = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
    if len(tail) < SEAL_BYTES or not tail.startswith(_PREFIX):
        return False
    if tail[len(_PREFIX) :] != _digest(body):
        raise ModelError(
            "The model is damaged: its bytes are not the ones that were written; fetch it again."
        )
    return True


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest().encode()
