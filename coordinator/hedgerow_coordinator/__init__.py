"""Run rounds, aggregate updates, prune, and keep the run."""

from hedgerow_coordinator.agent import (
    CHECK_DATA,
    CoordinatorAgent,
    Outcome,
    RivalError,
    flat_traffic,
    open_run,
)
from hedgerow_coordinator.aggregate import Aggregator
from hedgerow_coordinator.checkpoint import ServerState, decode_checkpoint, encode_checkpoint, mask_epoch
from hedgerow_coordinator.coordinator import Coordinator
from hedgerow_coordinator.delivery import Deliverer, DeliveryRow
from hedgerow_coordinator.delivery_agent import DeliveryOutcome, DeliverySettings, deliver
from hedgerow_coordinator.errors import (
    AggregationError,
    CoordinatorError,
    DensityError,
    PlanError,
    PruningError,
    SettingError,
    StoreDamaged,
    StoreError,
    StoreExists,
    StoreLocked,
    StoreMismatch,
    StoreNotFound,
)
from hedgerow_coordinator.evaluation import evaluator, read_arrays, read_test_data
from hedgerow_coordinator.plan import Plan, load_plan, parse_plan
from hedgerow_coordinator.plan_template import plan_template
from hedgerow_coordinator.pruning import PruningPolicy, prune
from hedgerow_coordinator.records import (
    ClientSummary,
    EventRecord,
    RoundRecord,
    StoredUpdate,
    UpdateRecord,
    mean_personal,
)
from hedgerow_coordinator.sampled import network_of
from hedgerow_coordinator.store import RunStore

__all__ = [
    "CHECK_DATA",
    "AggregationError",
    "Aggregator",
    "ClientSummary",
    "Coordinator",
    "CoordinatorAgent",
    "CoordinatorError",
    "Deliverer",
    "DeliveryOutcome",
    "DeliveryRow",
    "DeliverySettings",
    "DensityError",
    "EventRecord",
    "Outcome",
    "Plan",
    "PlanError",
    "PruningError",
    "PruningPolicy",
    "RivalError",
    "RoundRecord",
    "RunStore",
    "ServerState",
    "SettingError",
    "StoreDamaged",
    "StoreError",
    "StoreExists",
    "StoreLocked",
    "StoreMismatch",
    "StoreNotFound",
    "StoredUpdate",
    "UpdateRecord",
    "decode_checkpoint",
    "deliver",
    "encode_checkpoint",
    "evaluator",
    "flat_traffic",
    "load_plan",
    "mask_epoch",
    "mean_personal",
    "network_of",
    "open_run",
    "parse_plan",
    "plan_template",
    "prune",
    "read_arrays",
    "read_test_data",
]
