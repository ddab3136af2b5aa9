"""A thousand connected clients that do nothing: what they cost on the wire, and the coordinator's memory."""

from __future__ import annotations

import re
import subprocess
import time

from benchmarks.light import light_plan
from benchmarks.transport.brokers import broker_for, peak_mib, scratch, wait_until
from benchmarks.transport.coordinator import CoordinatorProcess

from hedgerow_transport import MqttLink, Presence, Topics, Will

NUM_CLIENTS = 1000
SECONDS = 120
SETTLE_S = 35
# IPv4 and TCP with time stamps, as Linux sends them.
HEADER_BYTES = 52
TOPICS = Topics("default")
_COUNTERS = re.compile(r"\b(bytes_acked|bytes_received|segs_out|segs_in):(\d+)")


def wire_bytes(port: int) -> tuple[int, int]:
    """Return connections of a server on loopback, and the bytes they have carried with IP and TCP headers.

    As the kernel counts them (`ss -ti`), both ways, at the server's end.
    """
    listing = subprocess.run(
        ["ss", "-tinH", "state", "established", f"( sport = :{port} )"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    totals = {"bytes_acked": 0, "bytes_received": 0, "segs_out": 0, "segs_in": 0}
    for name, number in _COUNTERS.findall(listing):
        totals[name] += int(number)
    num_bytes = totals["bytes_acked"] + totals["bytes_received"]
    num_bytes += HEADER_BYTES * (totals["segs_out"] + totals["segs_in"])
    return listing.count("bytes_received:"), num_bytes


def measure() -> dict[str, float]:
    """Connect links as clients have them, with birth and will, and leave them alone for some minutes."""
    with scratch() as folder, broker_for(folder) as (broker, port):
        plan = light_plan(rounds=1, clients=NUM_CLIENTS + 1)
        with CoordinatorProcess(plan, broker=broker.url, folder=folder, num_parameters=64) as led:
            alone_mib = led.peak_mib
            links = [_client(broker.url, f"c{number}") for number in range(NUM_CLIENTS)]
            there = f"{NUM_CLIENTS} of {NUM_CLIENTS + 1} are there"
            wait_until(lambda: there in led.said, "clients", timeout_s=120)
            # Until every keepalive has its rhythm.
            time.sleep(SETTLE_S)
            _, before = wire_bytes(port)
            time.sleep(SECONDS)
            num_connections, after = wire_bytes(port)
            result = {
                "clients": NUM_CLIENTS,
                "connections": num_connections,
                "idle_bytes_per_client_min": (after - before) / num_connections * 60 / SECONDS,
                "coordinator_rss_mib": led.peak_mib,
                "coordinator_alone_rss_mib": alone_mib,
                "broker_peak_rss_mib": peak_mib(broker.pid),
            }
            lost = [link.client_id for link in links if not link.connected]
            for link in links:
                link.close(graceful=False)
    if lost or num_connections < NUM_CLIENTS:
        raise RuntimeError(f"{len(lost)} links were lost, {num_connections} connections are left")
    return result


def _client(url: str, name: str) -> MqttLink:
    gone = Presence(client=name, session=1, online=False)
    link = MqttLink(
        url,
        client_id=f"hedgerow-default-{name}",
        filters=TOPICS.client_filters(name),
        will=Will(topic=TOPICS.presence(name), payload=gone.encode()),
    )
    link.connect(30.0)
    birth = Presence(client=name, session=1, online=True, profile={"cores": 4, "samples": 1000})
    link.publish(TOPICS.presence(name), birth.encode(), retain=True, qos=1)
    return link
