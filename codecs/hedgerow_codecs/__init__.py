"""Arrays to bytes and back: layouts, masks, quantised updates, frames, error feedback."""

from hedgerow_codecs.bundle import bundle, unbundle
from hedgerow_codecs.candidates import block_of, candidate_counts
from hedgerow_codecs.channel_set import ChannelSet, ChannelSlice, WidthTier, width_tier
from hedgerow_codecs.codec import Codec
from hedgerow_codecs.decoded import DecodedUpdate
from hedgerow_codecs.division import divide
from hedgerow_codecs.ef21 import Ef21Feedback
from hedgerow_codecs.errors import (
    ChecksumError,
    CodecError,
    ConfigError,
    ForeignFrameError,
    FrameError,
    KindError,
    LayoutError,
    MaskError,
    MismatchError,
    PayloadError,
    TruncatedFrameError,
    UnencodableError,
)
from hedgerow_codecs.feedback import ErrorFeedback
from hedgerow_codecs.feedback_kind import FEEDBACKS, Feedback, NoFeedback
from hedgerow_codecs.frame import (
    NO_BASE,
    FrameHeader,
    FrameKind,
    decode_frame,
    encode_frame,
    encode_frame_with_decoded,
    max_decode_bytes,
    max_frame_bytes,
    model_digest,
    read_header,
)
from hedgerow_codecs.frozen import MAX_PATTERN_BYTES, MAX_PATTERNS, Frozen
from hedgerow_codecs.layout import KINDS, Layout, TensorSpec
from hedgerow_codecs.mask import Mask
from hedgerow_codecs.mask_frame import decode_mask, encode_mask
from hedgerow_codecs.numbers import numbers_mask
from hedgerow_codecs.registry import codec_from_config
from hedgerow_codecs.seeded import decode_seeded, encode_seeded, seeded_parameters
from hedgerow_codecs.signed_constants import check_sampled, sampled_entries, signed_constants
from hedgerow_codecs.tier import counted_mask, tier_mask

__all__ = [
    "FEEDBACKS",
    "KINDS",
    "MAX_PATTERNS",
    "MAX_PATTERN_BYTES",
    "NO_BASE",
    "ChannelSet",
    "ChannelSlice",
    "ChecksumError",
    "Codec",
    "CodecError",
    "ConfigError",
    "DecodedUpdate",
    "Ef21Feedback",
    "ErrorFeedback",
    "Feedback",
    "ForeignFrameError",
    "FrameError",
    "FrameHeader",
    "FrameKind",
    "Frozen",
    "KindError",
    "Layout",
    "LayoutError",
    "Mask",
    "MaskError",
    "MismatchError",
    "NoFeedback",
    "PayloadError",
    "TensorSpec",
    "TruncatedFrameError",
    "UnencodableError",
    "WidthTier",
    "block_of",
    "bundle",
    "candidate_counts",
    "check_sampled",
    "codec_from_config",
    "counted_mask",
    "decode_frame",
    "decode_mask",
    "decode_seeded",
    "divide",
    "encode_frame",
    "encode_frame_with_decoded",
    "encode_mask",
    "encode_seeded",
    "max_decode_bytes",
    "max_frame_bytes",
    "model_digest",
    "numbers_mask",
    "read_header",
    "sampled_entries",
    "seeded_parameters",
    "signed_constants",
    "tier_mask",
    "unbundle",
    "width_tier",
]
