"""The embedded broker: amqtt in a process of its own, on loopback only.

It needs no more than a Python package. What it lacks: MQTT 5, and retained messages go to everybody at each
subscription. For more than a demo, use Mosquitto.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import Any


async def serve(host: str, port: int) -> None:
    """Run until SIGTERM."""
    from amqtt.broker import Broker  # an optional package: only this process needs it

    config: dict[str, Any] = {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}", "max_connections": 500}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    broker = Broker(config)
    await broker.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await broker.shutdown()


def main() -> None:
    """Run the broker on the host and port of the command line."""
    # amqtt reports each client that hangs up as an error with a traceback.
    logging.basicConfig(level=logging.CRITICAL)
    host, port = sys.argv[1:]
    asyncio.run(serve(host, int(port)))


if __name__ == "__main__":
    main()
