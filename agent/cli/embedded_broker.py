"""The demo's own MQTT broker (amqtt, MQTT 3.1.1): `python -m agent.cli.embedded_broker PORT`.

For trying Tampu on a machine without mosquitto; not for production.
"""

import asyncio
import contextlib
import logging
import signal
import sys

from amqtt.broker import Broker

CONFIG = {
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}


async def serve(port: int) -> None:
    """Listen on 127.0.0.1 until told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broker = Broker({"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}, **CONFIG})
    await broker.start()
    await stop.wait()
    with contextlib.suppress(asyncio.CancelledError):
        await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(serve(int(sys.argv[1])))
