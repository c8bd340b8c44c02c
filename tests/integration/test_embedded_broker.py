"""The demo's embedded broker: MQTT 3.1.1 only, and silent when it is spoken to in MQTT 5."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli.demo_broker import Broker, start_broker
from agent.client import TampuClient
from tests.integration.conftest import BASE, NODE
from tests.support.device import Device
from tests.support.processes import Daemon, wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Broker]:
    with start_broker(tmp_path, embedded=True) as broker:
        yield broker


def test_the_daemon_falls_back_to_the_version_this_broker_speaks(
    start_daemon: Callable[..., Daemon], embedded: Broker
) -> None:
    """Two CONNECTs without an answer mean 3.1.1; then everything works."""
    daemon = start_daemon(mqtt={"port": embedded.port}, online=False)
    wait_until(lambda: "3.1.1" in daemon.status().get("mqtt", ""), "the fallback", timeout_s=60)
    with Device(embedded.port, f"{BASE}/response/me/#", f"{BASE}/status", is_v5=False) as device:
        device.wait_frame("/status", state="online")
        device.publish(f"{BASE}/request/me", {"id": "r1", "prompt": "LONG", "max_tokens": 40})
        done = device.wait_end("r1")
        assert device.received_text("r1") == done["text"]
        device.publish(f"{BASE}/request/me", {"id": "r2", "prompt": "LONG", "max_tokens": 900})
        device.wait_frame(id="r2", type="delta")
        device.publish(f"{BASE}/cancel/me", {"id": "r2"})
        assert device.wait_end("r2")["finish_reason"] in {"cancelled", "length"}
    assert daemon.stop() == 0


def test_a_device_falls_back_as_well(start_daemon: Callable[..., Daemon], embedded: Broker) -> None:
    """Its client asks in MQTT 5, then in 3.1.1: the whole stream, a cancel, and an answer once more."""
    start_daemon(mqtt={"port": embedded.port, "protocol": "3.1.1"}, step_s=0.02)
    with TampuClient("127.0.0.1", client="me", port=embedded.port) as box:
        assert box.node == NODE
        answer = box.stream("LONG", max_tokens=40)
        assert answer.frame is None
        assert "".join(answer) == (answer.frame or {})["text"] != ""
        cancelled = box.stream("LONG", max_tokens=900)
        for _ in cancelled:
            cancelled.cancel()
        assert (cancelled.frame or {})["finish_reason"] == "cancelled"
