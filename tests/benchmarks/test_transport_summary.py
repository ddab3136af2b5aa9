"""What the transport benchmark makes of its measurements."""

from __future__ import annotations

from benchmarks.transport.run import SUMMARY, summary_of
from benchmarks.transport.table import table_of


def test_the_summary_has_the_plain_way_beside_ours() -> None:
    parts = {
        "broadcast": {
            "hedgerow": {"coordinator_egress_ratio": 1.002, "broker_peak_rss_mib": 20.0},
            "plain": {"coordinator_egress_ratio": 1.0, "broker_peak_rss_mib": 2000.0},
        },
        "idle": {"hedgerow": {"idle_bytes_per_client_min": 326.0, "coordinator_rss_mib": 60.0}},
        "resets": {
            "hedgerow": {"reset_link_overhead": 1.1},
            "plain": {"reset_link_overhead": None},
        },
    }
    assert summary_of(parts) == {
        "coordinator_egress_ratio": 1.002,
        "plain_coordinator_egress_ratio": 1.0,
        "broker_peak_rss_mib": 20.0,
        "plain_broker_peak_rss_mib": 2000.0,
        "idle_bytes_per_client_min": 326.0,
        "coordinator_rss_mib": 60.0,
        "reset_link_overhead": 1.1,
        "plain_reset_link_overhead": None,
    }
    table = table_of(summary_of(parts)).splitlines()
    assert len(table) == 2 + 5
    assert table[2].endswith("| <= 1.03 | 1.0020 | 1.0000 |")
    assert table[-1].endswith("| <= 1.4 | 1.100 | does not arrive |")


def test_every_number_that_matters_has_a_row() -> None:
    summary = {name: 1.0 for name, _, _ in SUMMARY}
    assert len(table_of(summary).splitlines()) == 2 + len(SUMMARY)
