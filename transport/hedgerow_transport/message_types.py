"""Every type of message, for who has bytes and does not know what they are."""

from __future__ import annotations

from hedgerow_transport.delivery import Delivery, DeliveryReport
from hedgerow_transport.exchange import Accept, Ack, Decline, Need, Offer, Rebirth, Route, Sync
from hedgerow_transport.manifest import Manifest, RoundPlan
from hedgerow_transport.message import Message
from hedgerow_transport.presence import CoordinatorState, DeviceState, Presence

MESSAGE_TYPES: tuple[type[Message], ...] = (
    Manifest,
    RoundPlan,
    Sync,
    Route,
    Need,
    Offer,
    Accept,
    Ack,
    Decline,
    Presence,
    CoordinatorState,
    DeviceState,
    Rebirth,
    Delivery,
    DeliveryReport,
)
