"""The summary as a table for the documentation."""

from __future__ import annotations

from typing import Any

_SENT = "bytes out of the coordinator, in models of 45 MB, to 50 subscribers"
_IDLE = "bytes per minute of an idle client, of 1,000, with TCP and IP"
# Name in the summary, what it is, the goal, and how it is written.
_ROWS = (
    ("coordinator_egress_ratio", _SENT, "<= 1.03", "{:.4f}"),
    ("broker_peak_rss_mib", "the broker's peak memory meanwhile, MiB", "", "{:.0f}"),
    ("idle_bytes_per_client_min", _IDLE, "<= 400", "{:.0f}"),
    ("coordinator_rss_mib", "the coordinator's peak memory with these, MiB", "", "{:.0f}"),
    ("round_overhead_s", "a round without training, 2 clients, median, s", "<= 0.2", "{:.3f}"),
    ("round_overhead_without_disk_s", "the same on a disk in memory, s", "", "{:.3f}"),
    ("uplink_ratio", "bytes to the coordinator, in 200 updates of 200 kB", "", "{:.4f}"),
    ("uplink_s", "time for these, s", "", "{:.1f}"),
    ("uplink_broker_peak_rss_mib", "the broker's peak memory meanwhile, MiB", "", "{:.0f}"),
    ("reset_link_overhead", "bytes over a link reset every 700 kB, in models of 2 MB", "<= 1.4", "{:.3f}"),
)


def table_of(summary: dict[str, Any]) -> str:
    """Return a table in Markdown of what was measured."""
    lines = ["| what | goal | Hedgerow | one message |", "| --- | --- | --- | --- |"]
    for name, what, goal, form in _ROWS:
        if name in summary:
            plain = _cell(summary, f"plain_{name}", form)
            lines.append(f"| {what} | {goal} | {_cell(summary, name, form)} | {plain} |")
    return "\n".join(lines)


def _cell(summary: dict[str, Any], name: str, form: str) -> str:
    if name not in summary:
        return ""
    return "does not arrive" if summary[name] is None else form.format(summary[name])
