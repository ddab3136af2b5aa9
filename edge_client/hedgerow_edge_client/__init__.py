"""Train on the device, on data that never leaves it."""

from hedgerow_edge_client.actions import Action, CancelTraining, Leave, Say, StartTraining
from hedgerow_edge_client.agent import ClientAgent, ClientSettings
from hedgerow_edge_client.delivery import DeliverySession, Trial, TrialResult
from hedgerow_edge_client.errors import (
    EdgeClientError,
    EmptyData,
    ReplicaError,
    StateError,
    TaskError,
    TrainerCrashed,
    TrainingDiverged,
)
from hedgerow_edge_client.memory import Memory
from hedgerow_edge_client.model_shelf import ModelShelf
from hedgerow_edge_client.personal import PersonalRule
from hedgerow_edge_client.replica import Replica
from hedgerow_edge_client.requests import Progress, TrainRequest, TrainResult
from hedgerow_edge_client.session import ClientSession
from hedgerow_edge_client.state import ClientState, MemoryState, Pending, Snapshot, read_snapshot
from hedgerow_edge_client.task import scan_task
from hedgerow_edge_client.trainer_life import Crashed, Failed, Trained
from hedgerow_edge_client.trainer_process import Description, TrainerProcess

__all__ = [
    "Action",
    "CancelTraining",
    "ClientAgent",
    "ClientSession",
    "ClientSettings",
    "ClientState",
    "Crashed",
    "DeliverySession",
    "Description",
    "EdgeClientError",
    "EmptyData",
    "Failed",
    "Leave",
    "Memory",
    "MemoryState",
    "ModelShelf",
    "Pending",
    "PersonalRule",
    "Progress",
    "Replica",
    "ReplicaError",
    "Say",
    "Snapshot",
    "StartTraining",
    "StateError",
    "TaskError",
    "TrainRequest",
    "TrainResult",
    "Trained",
    "TrainerCrashed",
    "TrainerProcess",
    "TrainingDiverged",
    "Trial",
    "TrialResult",
    "read_snapshot",
    "scan_task",
]
