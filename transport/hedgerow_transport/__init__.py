"""Move typed messages and content-addressed blobs between coordinator and devices."""

from hedgerow_transport import bitmap
from hedgerow_transport.bitmap import count, indices, union
from hedgerow_transport.blob import BlobAssembler, blob_chunk, blob_digest
from hedgerow_transport.blob_store import BlobStore
from hedgerow_transport.broker import Broker, run_mosquitto, start_broker
from hedgerow_transport.broker_preset import BROKER_PRESETS, BrokerPreset, fitting_chunk_bytes
from hedgerow_transport.broker_url import BrokerUrl
from hedgerow_transport.child import die_with_parent
from hedgerow_transport.chunk import CHUNK_HEADER_BYTES, decode_chunk, encode_chunk
from hedgerow_transport.durable_file import UNFINISHED, sync_directory, write_durably
from hedgerow_transport.errors import (
    BlobError,
    BrokerError,
    BrokerMissing,
    BrokerRefused,
    BrokerSettingError,
    BrokerUnreachable,
    BrokerUrlError,
    LinkClosed,
    LinkError,
    LinkOverflow,
    MessageError,
    PacketTooLarge,
    TopicError,
    TransportError,
)
from hedgerow_transport.exchange import (
    ACK_STATUSES,
    MAX_ROUTE_STEPS,
    Accept,
    Ack,
    Decline,
    Need,
    Offer,
    Route,
    Sync,
    decode_down,
)
from hedgerow_transport.link import Connected, Disconnected, Link, LinkEvent, Received, Will, matches
from hedgerow_transport.link_state import LinkLimits
from hedgerow_transport.manifest import (
    BLOB_KINDS,
    DEFAULT_CHUNK_BYTES,
    MANIFEST_STATES,
    MAX_CHUNK_BYTES,
    MAX_COHORT,
    MAX_MANIFEST_STEPS,
    MIN_CHUNK_BYTES,
    BlobRef,
    Manifest,
    RoundPlan,
    chunk_count,
    cohort_hash,
    encode_cohort,
)
from hedgerow_transport.memory_hub import MemoryHub, MemoryLink
from hedgerow_transport.message import MESSAGE_VERSION, Message, decode_message
from hedgerow_transport.mosquitto_config import (
    COORDINATOR_IDENTITY,
    MosquittoConfig,
    TlsFiles,
    acl_text,
    find_mosquitto,
    mosquitto_version,
)
from hedgerow_transport.mosquitto_process import MOSQUITTO_CONFIG_NAME
from hedgerow_transport.mqtt_link import MqttLink
from hedgerow_transport.presence import CoordinatorState, Presence
from hedgerow_transport.probe import BrokerFacts, probe_broker
from hedgerow_transport.publication import Publication
from hedgerow_transport.topics import (
    NAME_PATTERN,
    TOPIC_ROOT,
    UP_KINDS,
    ParsedTopic,
    Topics,
    check_name,
    parse_topic,
)
from hedgerow_transport.traffic import Traffic, publish_bytes

__all__ = [
    "ACK_STATUSES",
    "BLOB_KINDS",
    "BROKER_PRESETS",
    "CHUNK_HEADER_BYTES",
    "COORDINATOR_IDENTITY",
    "DEFAULT_CHUNK_BYTES",
    "MANIFEST_STATES",
    "MAX_CHUNK_BYTES",
    "MAX_COHORT",
    "MAX_MANIFEST_STEPS",
    "MAX_ROUTE_STEPS",
    "MESSAGE_VERSION",
    "MIN_CHUNK_BYTES",
    "MOSQUITTO_CONFIG_NAME",
    "NAME_PATTERN",
    "TOPIC_ROOT",
    "UNFINISHED",
    "UP_KINDS",
    "Accept",
    "Ack",
    "BlobAssembler",
    "BlobError",
    "BlobRef",
    "BlobStore",
    "Broker",
    "BrokerError",
    "BrokerFacts",
    "BrokerMissing",
    "BrokerPreset",
    "BrokerRefused",
    "BrokerSettingError",
    "BrokerUnreachable",
    "BrokerUrl",
    "BrokerUrlError",
    "Connected",
    "CoordinatorState",
    "Decline",
    "Disconnected",
    "Link",
    "LinkClosed",
    "LinkError",
    "LinkEvent",
    "LinkLimits",
    "LinkOverflow",
    "Manifest",
    "MemoryHub",
    "MemoryLink",
    "Message",
    "MessageError",
    "MosquittoConfig",
    "MqttLink",
    "Need",
    "Offer",
    "PacketTooLarge",
    "ParsedTopic",
    "Presence",
    "Publication",
    "Received",
    "RoundPlan",
    "Route",
    "Sync",
    "TlsFiles",
    "TopicError",
    "Topics",
    "Traffic",
    "TransportError",
    "Will",
    "acl_text",
    "bitmap",
    "blob_chunk",
    "blob_digest",
    "check_name",
    "chunk_count",
    "cohort_hash",
    "count",
    "decode_chunk",
    "decode_down",
    "decode_message",
    "die_with_parent",
    "encode_chunk",
    "encode_cohort",
    "find_mosquitto",
    "fitting_chunk_bytes",
    "indices",
    "matches",
    "mosquitto_version",
    "parse_topic",
    "probe_broker",
    "publish_bytes",
    "run_mosquitto",
    "start_broker",
    "sync_directory",
    "union",
    "write_durably",
]
