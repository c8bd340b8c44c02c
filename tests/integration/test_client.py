"""The device's client over a real mosquitto and a real daemon, with everything that goes away meanwhile."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import client as client_module
from agent.client import Answer, AnswerError, Frame, NoAnswer, TampuClient
from tests.integration.conftest import BASE, NODE
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, free_port, wait_until

pytestmark = pytest.mark.timeout(90)
StartDaemon = Callable[..., Daemon]


@pytest.fixture
def box(broker: Mosquitto) -> Iterator[TampuClient]:
    """A device called `me`, connected."""
    with TampuClient("127.0.0.1", node=NODE, client="me", port=broker.port) as box:
        yield box


def first_words(answer: Answer, num: int = 3) -> Iterator[str]:
    """The iterator over an answer, some pieces of which were read."""
    texts = iter(answer)
    for _ in range(num):
        next(texts)
    return texts


@pytest.mark.parametrize("protocol", ["auto", "5", "3.1.1"])
def test_an_answer_streams_and_is_whole(daemon: Daemon, broker: Mosquitto, protocol: str) -> None:
    """Whatever version of MQTT is spoken; the pieces are the text of the terminal frame."""
    with TampuClient("127.0.0.1", node=NODE, client="me", port=broker.port, protocol=protocol) as box:
        answer = box.stream("a LONG story", max_tokens=200, temperature=0)
        text = "".join(answer)
        assert box.ask("a LONG story", max_tokens=200, temperature=0, stream=False) == text
    assert answer.frame is not None
    assert text == answer.text == answer.frame["text"] != ""
    assert (answer.node, answer.frame["finish_reason"]) == (NODE, "length")


def test_the_only_box_need_not_be_named(daemon: Daemon, broker: Mosquitto) -> None:
    """The broker knows it by its retained status."""
    with TampuClient("127.0.0.1", client="me", port=broker.port) as box:
        assert box.nodes() == {NODE: "online"}
        assert box.ask("hello", max_tokens=5)


def test_of_several_boxes_one_must_be_named(daemon: Daemon, broker: Mosquitto) -> None:
    """The error names them; one that is offline is no choice."""
    with Device(broker.port, f"{BASE}/status") as device:
        device.publish("tampu/v1/attic/status", '{"state":"offline"}', retain=True)
        with TampuClient("127.0.0.1", client="me", port=broker.port) as box:
            assert box.node == NODE
        device.publish("tampu/v1/attic/status", '{"state":"online"}', retain=True)
        with pytest.raises(NoAnswer, match=r"several: attic \(online\), box \(online\)"):
            TampuClient("127.0.0.1", client="me", port=broker.port).connect()


def test_a_refusal_is_raised_with_its_code(daemon: Daemon, box: TampuClient) -> None:
    """By `ask`, by `stream`, and with the box's sentence."""
    with pytest.raises(AnswerError, match="nobody") as caught:
        box.ask("hello", profile="nobody")
    assert (caught.value.code, caught.value.retryable) == ("not_found", False)
    with pytest.raises(AnswerError, match="empty"):
        box.stream("").wait()


def test_two_threads_ask_at_once(daemon: Daemon, box: TampuClient) -> None:
    """Over one connection, each gets its own answer."""
    prompts = [f"say {number}" for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(lambda prompt: box.ask(prompt, temperature=0, max_tokens=30), prompts))
    assert at_once == [box.ask(prompt, temperature=0, max_tokens=30) for prompt in prompts]
    assert len(set(at_once)) > 1


def test_a_cancelled_answer_ends_with_what_there_is(start_daemon: StartDaemon, box: TampuClient) -> None:
    """The loop ends as usual; the frame says why."""
    start_daemon(step_s=0.02)
    answer = box.stream("LONG", max_tokens=900)
    rest = first_words(answer)
    answer.cancel()
    for _ in rest:
        pass
    assert answer.frame is not None
    assert answer.frame["finish_reason"] == "cancelled"
    assert answer.text == answer.frame["text"] != ""


def test_leaving_the_loop_cancels_the_request(
    start_daemon: StartDaemon, broker: Mosquitto, box: TampuClient
) -> None:
    """The box computes for nobody."""
    start_daemon(step_s=0.02)
    with Device(broker.port, f"{BASE}/response/me/#") as device:
        answer = box.stream("LONG", max_tokens=900)
        for _ in answer:
            break
        assert device.wait_end(answer.id)["finish_reason"] == "cancelled"


def test_a_busy_box_is_asked_again_when_it_said_to(start_daemon: StartDaemon, box: TampuClient) -> None:
    """Under the same id, after retry_after_ms; nobody sees the refusals."""
    start_daemon(step_s=0.02, limits={"queue": 2, "per_client": 2})
    answers = [box.stream(f"{number} LONG", max_tokens=30) for number in range(3)]
    texts: list[str] = []
    threads = [threading.Thread(target=lambda one=one: texts.append(one.wait())) for one in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(texts) == 3
    assert all(texts)


def test_a_box_that_stays_busy_is_given_up_in_time(start_daemon: StartDaemon, box: TampuClient) -> None:
    """Where the next attempt would come after the timeout, the refusal is the answer."""
    start_daemon(step_s=0.02, limits={"queue": 1, "per_client": 1})
    rest = first_words(box.stream("LONG", max_tokens=900))
    with pytest.raises(AnswerError) as caught:
        box.ask("hello", timeout_s=1.5)
    assert caught.value.code in {"busy", "rate_limited"}
    assert next(rest)


def test_an_answer_goes_on_when_the_broker_comes_back(
    start_daemon: StartDaemon, broker: Mosquitto, box: TampuClient
) -> None:
    """Killed in mid-answer and started again: the whole text, each piece once."""
    start_daemon(step_s=0.02)
    answer = box.stream("LONG", max_tokens=200, resend_s=3.0)
    texts = iter(answer)
    pieces = [next(texts), next(texts)]
    broker.stop()
    broker.start()
    pieces += texts
    assert answer.frame is not None
    assert answer.frame["usage"]["completion"] == 200
    assert "".join(pieces) == answer.frame["text"]
    assert answer.receiver.num_restarts == 0


def test_an_answer_comes_though_the_daemon_was_killed(start_daemon: StartDaemon, box: TampuClient) -> None:
    """SIGKILL in mid-answer, and another daemon over the same state: with the same seed the same text."""
    first = start_daemon(step_s=0.02)
    answer = box.stream("LONG", max_tokens=150, resend_s=2.0)
    texts = iter(answer)
    pieces = [next(texts), next(texts)]
    first.kill()
    first.start()
    pieces += texts
    assert answer.frame is not None
    assert answer.frame["usage"]["completion"] == 150
    assert "".join(pieces) == answer.frame["text"]


def test_a_client_may_be_there_before_the_box(start_daemon: StartDaemon, box: TampuClient) -> None:
    """What was asked while it was away is answered when it comes."""
    answer = box.stream("hello", max_tokens=10, resend_s=1.0)
    start_daemon(online=False)
    assert answer.wait()


def test_silence_ends_in_a_sentence_about_it(broker: Mosquitto, box: TampuClient) -> None:
    """Which box, and what the broker knows of it."""
    with pytest.raises(NoAnswer, match="no answer within 1 s: box is not known to the broker"):
        box.ask("hello", timeout_s=0.6)
    with (
        TampuClient("127.0.0.1", pool="kitchen", client="me", port=broker.port) as cook,
        pytest.raises(NoAnswer, match="no answer within 1 s: no box of the pool kitchen has taken it"),
    ):
        cook.ask("hello", timeout_s=0.6)
    broker.stop()
    with pytest.raises(NoAnswer, match=r"the broker at 127.0.0.1:\d+ is away"):
        box.ask("hello", timeout_s=0.6)


def test_no_broker_is_said_at_once() -> None:
    """With its address."""
    port = free_port()
    with pytest.raises(NoAnswer, match=f"the broker at 127.0.0.1:{port}: .*refused"):
        TampuClient("127.0.0.1", node=NODE, client="me", port=port).connect(timeout_s=0.5)


def test_a_wrong_password_is_said_at_once(tmp_path: Path) -> None:
    """No retry would mend it."""
    closed = Mosquitto(tmp_path, is_open=False)
    closed.start()
    try:
        device = TampuClient("127.0.0.1", node=NODE, port=closed.port, username="me", password="wrong")
        with pytest.raises(NoAnswer, match="user name or password is wrong"):
            device.connect()
    finally:
        closed.stop()


def test_progress_is_told_while_a_prompt_waits(
    start_daemon: StartDaemon, broker: Mosquitto, box: TampuClient
) -> None:
    """Each progress frame reaches the callback."""
    seen: list[Frame] = []
    frame = {"id": "r1", "type": "progress", "seq": 2, "run": 1, "node": NODE, "phase": "queued"}
    with Device(broker.port, f"{BASE}/request/me") as device:
        answer = box.stream("hello", id="r1", on_progress=seen.append)
        wait_until(lambda: device.messages, "the request")
        device.publish(f"{BASE}/response/me/r1", frame)
        device.publish(f"{BASE}/response/me/r1", {**frame, "type": "done", "text": "x"})
        assert answer.wait() == "x"
    assert seen == [frame]


@pytest.fixture(params=["delta", "chunk"])
def lossy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Frame]:
    """Loses the second frame of a kind on its way to the client, once; the frames that were lost."""
    lost: list[Frame] = []
    num_seen = 0
    take = Answer._take

    def lose(answer: Answer, frame: Frame) -> str:
        nonlocal num_seen
        num_seen += frame.get("type") == request.param
        if num_seen == 2 and not lost:
            lost.append(frame)
            return ""
        return take(answer, frame)

    monkeypatch.setattr(Answer, "_take", lose)
    return lost


def test_a_lost_frame_costs_nothing_in_the_end(
    start_daemon: StartDaemon, tmp_path: Path, broker: Mosquitto, lossy: list[Frame]
) -> None:
    """A delta is made good by a snapshot or the end, a chunk by asking for the end again."""
    broker.stop()
    small = Mosquitto(tmp_path, extra="max_packet_size 1400\n")
    small.start()
    try:
        start_daemon(mqtt={"port": small.port})
        with TampuClient("127.0.0.1", node=NODE, client="me", port=small.port) as box:
            answer = box.stream("LONG", max_tokens=400)
            text = "".join(answer)
    finally:
        small.stop()
    assert lossy
    assert answer.frame is not None
    assert answer.frame["chunks"] > 1
    assert text == answer.text
    assert answer.frame["usage"]["completion"] == 400


def test_the_client_is_a_program_too(daemon: Daemon, broker: Mosquitto, tmp_path: Path) -> None:
    """One file, copied away from everything it came with."""
    script = tmp_path / "client.py"
    script.write_text(Path(client_module.__file__).read_text())
    command = [sys.executable, str(script), "127.0.0.1", NODE, "a LONG story", "--port", str(broker.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("box", "hello", "--password-file", "/nowhere"), "/nowhere"),
        (("box", "hello", "--ca", "/nowhere"), "/nowhere"),
        (("a/b", "hello"), "is no name"),
    ],
)
def test_the_programs_mistakes_are_sentences(words: tuple[str, ...], said: str) -> None:
    """No traceback for a file that is not there or a name that is none."""
    command = [sys.executable, str(client_module.__file__), "127.0.0.1", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert said in done.stderr


def test_an_answer_can_be_had_again(daemon: Daemon, box: TampuClient) -> None:
    """By its id, also by a process that never asked; an id nobody knows is an error."""
    first = box.stream("hello", id="r-1", max_tokens=20)
    text = first.wait()
    assert box.get("r-1").wait() == text
    with pytest.raises(AnswerError) as caught:
        box.get("r-2").wait()
    assert caught.value.code == "not_found"


def test_an_answer_under_way_can_be_taken_over(
    start_daemon: StartDaemon, broker: Mosquitto, box: TampuClient
) -> None:
    """What was said before is not missing."""
    start_daemon(step_s=0.02)
    with Device(broker.port, f"{BASE}/response/me/#") as device:
        device.publish(f"{BASE}/request/me", {"id": "r-1", "prompt": "LONG", "max_tokens": 100})
        wait_until(lambda: len([f for f in device.frames() if f["type"] == "delta"]) > 2, "some text")
        assert box.get("r-1").wait() == device.wait_end("r-1")["text"] != ""


@pytest.fixture
def kitchen(start_daemon: StartDaemon, broker: Mosquitto) -> dict[str, Daemon]:
    """Two boxes that share a pool, by their nodes."""
    mqtt = {"port": broker.port, "pools": ["kitchen"]}
    limits = {"queue": 1}
    return {
        node: start_daemon(name=node, node=node, mqtt=mqtt, limits=limits, step_s=0.02)
        for node in ("stove", "sink")
    }


@pytest.fixture
def cook(broker: Mosquitto, kitchen: dict[str, Daemon]) -> Iterator[TampuClient]:
    """A device of the kitchen's, connected."""
    with TampuClient("127.0.0.1", pool="kitchen", client="me", port=broker.port) as cook:
        yield cook


def test_a_pool_answers_with_whichever_box_is_free(cook: TampuClient, kitchen: dict[str, Daemon]) -> None:
    """Each takes one request at a time here; three are answered, by both, whole."""
    with ThreadPoolExecutor(3) as threads:
        answers = [cook.stream(f"{number} LONG", max_tokens=40) for number in range(3)]
        texts = list(threads.map(Answer.wait, answers))
    assert all(texts)
    assert {answer.node for answer in answers} == set(kitchen)


def test_a_session_of_a_pool_stays_with_its_box(cook: TampuClient) -> None:
    """The other one does not know what was said."""
    first = cook.stream("hello", session="s", max_tokens=5)
    first.wait()
    for _ in range(3):
        turn = cook.stream("and then?", session="s", max_tokens=5)
        turn.wait()
        assert turn.node == first.node
    assert turn.frame is not None
    assert first.frame is not None
    assert turn.frame["usage"]["prompt"] > first.frame["usage"]["prompt"]


def test_an_answer_of_a_pool_can_be_cancelled(cook: TampuClient) -> None:
    """By the box that has it."""
    answer = cook.stream("LONG", max_tokens=900)
    rest = first_words(answer)
    answer.cancel()
    for _ in rest:
        pass
    assert (answer.frame or {})["finish_reason"] == "cancelled"


def test_another_box_of_the_pool_takes_over_from_one_that_died(
    cook: TampuClient, kitchen: dict[str, Daemon]
) -> None:
    """Silence, or its last will: the request goes to the pool again, and the answer is whole."""
    answer = cook.stream("LONG", max_tokens=60, resend_s=1.0, temperature=0)
    rest = first_words(answer)
    dead = answer.node
    assert dead is not None
    kitchen[dead].kill()
    for _ in rest:
        pass
    assert answer.node not in (None, dead)
    assert (answer.frame or {})["usage"]["completion"] == 60
    assert answer.text == (answer.frame or {})["text"]
