"""Conversations as devices have them: a real mosquitto, a real daemon, a fake model that reads it all.

The fake model's answer depends on every token before it, so that an answer in a session is right
exactly if it is the answer to the same conversation written out as `messages`.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.cli.socket_client import SocketClient
from tests.integration.conftest import BASE
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, wait_until

ALL = f"{BASE}/response/#"
REQUEST = f"{BASE}/request/me"
ROOT = Path(__file__).parents[2]
NUMBERS = itertools.count()


def ask(device: Device, request_id: str, prompt: str = "", client: str = "me", **fields: Any) -> None:
    """A greedy request of 20 tokens, every frame at QoS 1: they come in the order they were said."""
    common = {"temperature": 0, "max_tokens": 20, "reply_qos": 1}
    tree = {"id": request_id, **common, **({"prompt": prompt} if prompt else {}), **fields}
    device.publish(f"{BASE}/request/{client}", tree)


def tell(device: Device, request_id: str, prompt: str = "", **fields: Any) -> str:
    """The whole answer."""
    ask(device, request_id, prompt, **fields)
    end = device.wait_end(request_id, 40)
    assert end["type"] == "done", end
    return str(end["text"])


def written_out(device: Device, *contents: str, system: str = "", max_tokens: int = 20) -> str:
    """The answer to a conversation of user and assistant in turn, without any session."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]
    fields = {"system": system} if system else {}
    return tell(device, f"written-{next(NUMBERS)}", messages=messages, max_tokens=max_tokens, **fields)


def wait_for_text(device: Device, request_id: str) -> None:
    wait_until(lambda: device.received_text(request_id), f"text of {request_id}")


def test_a_second_turn_remembers_the_first(daemon: Daemon, broker: Mosquitto) -> None:
    """And the third both, under the system prompt of the first."""
    with Device(broker.port, ALL) as device:
        first = tell(device, "1", "one", session="kitchen", system="Be brief.")
        second = tell(device, "2", "two", session="kitchen")
        third = tell(device, "3", "three", session="kitchen")
        assert first == written_out(device, "one", system="Be brief.")
        assert second == written_out(device, "one", first, "two", system="Be brief.")
        assert third == written_out(device, "one", first, "two", second, "three", system="Be brief.")
        assert third != written_out(device, "three", system="Be brief.")


def test_messages_begin_the_conversation_anew(daemon: Daemon, broker: Mosquitto) -> None:
    """The next prompt comes after them."""
    with Device(broker.port, ALL) as device:
        tell(device, "1", "one", session="kitchen")
        other = tell(device, "2", messages=[{"role": "user", "content": "other"}], session="kitchen")
        assert other == written_out(device, "other")
        assert tell(device, "3", "more", session="kitchen") == written_out(device, "other", other, "more")


def test_another_clients_session_of_the_same_name_is_another(daemon: Daemon, broker: Mosquitto) -> None:
    """Nobody goes on with what somebody else said."""
    with Device(broker.port, ALL) as device:
        tell(device, "1", "my secret", session="kitchen")
        theirs = tell(device, "2", "what was it?", client="other", session="kitchen")
        assert theirs == written_out(device, "what was it?")


def test_requests_of_a_session_run_one_after_another(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """In order of arrival, all accepted at once; another session runs beside them."""
    start_daemon(step_s=0.02)
    with Device(broker.port, ALL) as device:
        for number in (1, 2, 3):
            ask(device, f"k{number}", f"LONG {number}", session="kitchen")
        ask(device, "other", "LONG 4", session="hall", max_tokens=5)
        for number in (1, 2, 3):
            device.wait_end(f"k{number}", 40)
        frames = device.frames()
        texts = [device.received_text(f"k{number}") for number in (1, 2, 3)]
        assert texts[1] == written_out(device, "LONG 1", texts[0], "LONG 2")
        assert texts[2] == written_out(device, "LONG 1", texts[0], "LONG 2", texts[1], "LONG 3")
    what = [(frame["id"], frame["type"]) for frame in frames]
    for earlier, later in (("k1", "k2"), ("k2", "k3")):
        assert what.index((later, "accepted")) < what.index((earlier, "done")) < what.index((later, "delta"))
    assert what.index(("other", "done")) < what.index(("k1", "done"))


def test_superseding_ends_what_runs_and_what_waits(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """Barge-in: the cut answer is not remembered, and other sessions do not notice."""
    start_daemon(step_s=0.02)
    with Device(broker.port, ALL) as device:
        first = tell(device, "1", "one", session="kitchen")
        ask(device, "cut", "a LONG story", session="kitchen", max_tokens=400)
        ask(device, "waiting", "and then?", session="kitchen")
        ask(device, "beside", "LONG", session="hall", max_tokens=30)
        wait_for_text(device, "cut")
        barged = tell(device, "barge", "stop!", session="kitchen", supersede=True)
        assert device.wait_end("cut")["finish_reason"] == "cancelled"
        assert device.wait_end("waiting")["code"] == "cancelled"
        assert device.wait_end("beside")["finish_reason"] == "length"
        assert barged == written_out(device, "one", first, "stop!")
        assert tell(device, "next", "go on", session="kitchen") == written_out(
            device, "one", first, "stop!", barged, "go on"
        )


def test_superseding_is_possible_when_the_client_has_all_it_may(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """What is about to end does not count; and nothing is cancelled for a request that is refused."""
    start_daemon(step_s=0.02, limits={"per_client": 2})
    with Device(broker.port, ALL) as device:
        ask(device, "1", "LONG 1", session="kitchen", max_tokens=400)
        ask(device, "2", "LONG 2", session="hall", max_tokens=60)
        wait_for_text(device, "1")
        ask(device, "3", "LONG 3", session="cellar", supersede=True)
        assert device.wait_end("3")["code"] == "rate_limited"
        ask(device, "4", "LONG 4", session="kitchen", supersede=True)
        assert device.wait_end("4")["type"] == "done"
        assert device.wait_end("1")["finish_reason"] == "cancelled"
        assert device.wait_end("2", 40)["finish_reason"] == "length"


def test_waiting_requests_can_be_cancelled_and_can_expire(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """While the one before them still runs; they leave nothing behind."""
    daemon = start_daemon(step_s=0.02)
    with Device(broker.port, ALL) as device:
        ask(device, "1", "LONG 1", session="kitchen", max_tokens=150)
        ask(device, "cancelled", "two", session="kitchen")
        ask(device, "expired", "three", session="kitchen", ttl_s=0.3)
        ask(device, "4", "four", session="kitchen")
        wait_for_text(device, "1")
        device.publish(f"{BASE}/cancel/me", {"id": "cancelled"})
        assert device.wait_end("cancelled")["code"] == "cancelled"
        assert device.wait_end("expired")["code"] == "expired"
        assert all((f["id"], f["type"]) != ("1", "done") for f in device.frames()), "it still runs"
        first, fourth = device.wait_end("1", 40)["text"], device.wait_end("4", 40)["text"]
        assert fourth == written_out(device, "LONG 1", first, "four")
        wait_until(lambda: daemon.status()["live"] == 0, "nothing is left")


def test_a_cancelled_answer_is_not_remembered(start_daemon: Callable[..., Daemon], broker: Mosquitto) -> None:
    """Nor is its question."""
    start_daemon(step_s=0.02)
    with Device(broker.port, ALL) as device:
        first = tell(device, "1", "one", session="kitchen")
        ask(device, "2", "LONG 2", session="kitchen", max_tokens=400)
        wait_for_text(device, "2")
        device.publish(f"{BASE}/cancel/me", {"id": "2"})
        assert device.wait_end("2")["finish_reason"] == "cancelled"
        assert tell(device, "3", "three", session="kitchen") == written_out(device, "one", first, "three")


def test_a_conversation_survives_the_death_of_the_engine(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """The answer goes on where it stopped, with its history; so does who waits, and the turn after."""
    daemon = start_daemon(step_s=0.02)
    with Device(broker.port, ALL) as device:
        first = tell(device, "1", "one", session="kitchen")
        ask(device, "2", "a LONG story", session="kitchen", max_tokens=60)
        ask(device, "3", "three", session="kitchen")
        wait_for_text(device, "2")
        daemon.kill_engine()
        second, third = device.wait_end("2", 40)["text"], device.wait_end("3", 40)["text"]
        assert second == written_out(device, "one", first, "a LONG story", max_tokens=60)
        assert third == written_out(device, "one", first, "a LONG story", second, "three")
        daemon.kill_engine()
        fourth = tell(device, "4", "four", session="kitchen")
        assert fourth == written_out(device, "one", first, "a LONG story", second, "three", third, "four")
    assert daemon.status()["engine_restarts"] == 2


def test_a_request_sent_twice_is_one_turn(daemon: Daemon, broker: Mosquitto) -> None:
    """A duplicate is answered from the journal and adds nothing to the conversation."""
    with Device(broker.port, ALL) as device:
        first = tell(device, "1", "one", session="kitchen")
        ask(device, "1", "one", session="kitchen")
        wait_until(lambda: sum(f["type"] == "done" for f in device.frames()) == 2, "the answer again")
        assert tell(device, "2", "two", session="kitchen") == written_out(device, "one", first, "two")


def test_accepted_says_session_and_priority(start_daemon: Callable[..., Daemon], broker: Mosquitto) -> None:
    """The priority as it is used; `info` names what may be asked for."""
    start_daemon(limits={"priority": 4})
    with Device(broker.port, ALL, f"{BASE}/info") as device:
        tell(device, "1", "one", session="kitchen", priority=9)
        accepted = device.wait_frame(type="accepted", id="1")
        assert (accepted["session"], accepted["priority"]) == ("kitchen", 4)
        tell(device, "2", "two")
        accepted = device.wait_frame(type="accepted", id="2")
        assert (accepted["priority"], "session" in accepted) == (0, False)
        info = device.wait_frame("/info")
    assert {"session", "supersede", "priority"} <= set(info["features"])
    assert (info["limits"]["priority"], info["limits"]["sessions_per_client"]) == (4, 8)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"supersede": True}, "supersede: is about a session; name one, or leave it out"),
        ({"session": "a b"}, "session: 'a b' is not allowed; expected 1 to 64 of A-Z a-z 0-9 _ . -"),
        ({"session": ""}, "session: '' is not allowed; expected 1 to 64 of A-Z a-z 0-9 _ . -"),
    ],
)
def test_what_makes_no_sense_is_refused(
    daemon: Daemon, broker: Mosquitto, fields: dict[str, Any], sentence: str
) -> None:
    """In one sentence."""
    with Device(broker.port, ALL) as device:
        ask(device, "1", "one", **fields)
        error = device.wait_end("1")
    assert (error["code"], error["message"]) == ("bad_request", sentence)


def test_sessions_over_the_socket(daemon: Daemon) -> None:
    """One user message is the next turn, several are another history; `tampu ask` goes on the same way."""
    client = SocketClient(str(daemon.socket))

    def chat(*contents: str, **fields: Any) -> str:
        roles = ("user", "assistant")
        messages = [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]
        body = {"messages": messages, "temperature": 0, "max_tokens": 20, **fields}
        whole = json.loads(client.post_json("/v1/chat/completions", json.dumps(body).encode()))
        return str(whole["choices"][0]["message"]["content"])

    def tampu_ask(words: str) -> str:
        options = ["--temperature", "0", "--max-tokens", "20", "--no-stream", "--socket", str(daemon.socket)]
        command = [sys.executable, "-m", "agent.cli.main", "ask", "--session", "kitchen", *options, words]
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        return done.stdout.decode().removesuffix("\n")

    first = chat("one", session="kitchen")
    second = chat("two", session="kitchen", supersede=True, priority=-3)
    assert second == chat("one", first, "two")
    third = tampu_ask("three")
    assert third == chat("one", first, "two", second, "three")
    fourth = chat("a", "b", "c", session="kitchen")
    assert fourth == chat("a", "b", "c")
    assert tampu_ask("four") == chat("a", "b", "c", fourth, "four")
    assert chat("two", session="kitchen", user="other") == chat("two")
