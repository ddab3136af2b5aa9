"""Say what a device is and how it feels."""

from hedgerow_devices.check import Check
from hedgerow_devices.doctor import (
    check_architecture,
    check_clock,
    check_disk,
    check_memory,
    check_package,
    check_python,
    check_threads,
    check_torch,
    check_torch_trial,
    run_checks,
)
from hedgerow_devices.errors import DeviceError, LimitsError
from hedgerow_devices.governor import Cause, Decision, Governor, Limits
from hedgerow_devices.heat import throttle_reasons
from hedgerow_devices.matrix_trial import TrialOutcome, judge_trial, run_trial, signal_name
from hedgerow_devices.memory import Memory, read_memory
from hedgerow_devices.profile import Profile, usable_cores
from hedgerow_devices.readings import Readings
from hedgerow_devices.torch_build import TorchFacts, installed_torch, torch_verdict

__all__ = [
    "Cause",
    "Check",
    "Decision",
    "DeviceError",
    "Governor",
    "Limits",
    "LimitsError",
    "Memory",
    "Profile",
    "Readings",
    "TorchFacts",
    "TrialOutcome",
    "check_architecture",
    "check_clock",
    "check_disk",
    "check_memory",
    "check_package",
    "check_python",
    "check_threads",
    "check_torch",
    "check_torch_trial",
    "installed_torch",
    "judge_trial",
    "read_memory",
    "run_checks",
    "run_trial",
    "signal_name",
    "throttle_reasons",
    "torch_verdict",
    "usable_cores",
]
