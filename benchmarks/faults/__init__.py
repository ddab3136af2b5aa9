"""Bad links and lossy brokers, by seed: for tests, and for benchmarks that compare ways over them."""

from __future__ import annotations

from benchmarks.faults.hub import FaultyHub
from benchmarks.faults.proxy import LinkProfile, Proxy

__all__ = ["FaultyHub", "LinkProfile", "Proxy"]
