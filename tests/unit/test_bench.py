"""The benchmarks' own arithmetic: what a stream says, what a figure is judged by, how limits are found."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.bench.bisect_limit import smallest
from tests.bench.cgroups import V1, V2, candidates, why_not
from tests.bench.http_client import Question, chunks, understand
from tests.bench.mqtt_load import Device
from tests.bench.questions import NUM_CLIENTS, conversations
from tests.bench.report import Figure, table
from tests.bench.streams import Fleet, Stream, percentile

# Streams.


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (75, 3), (76, 4), (99, 4), (100, 4), (0, 1)])
def test_a_percentile_is_one_of_the_values(percent: float, value: int) -> None:
    """No value is made up between two that were measured."""
    assert percentile([4, 1, 3, 2], percent) == value


def test_no_values_have_no_percentile() -> None:
    """Nothing measured is said, not counted as 0."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_the_first_token_does_not_count_for_decoding() -> None:
    """It is prefill's: 4 tokens of which 3 took a second each are one a second."""
    stream = Stream(asked_at=10, arrivals=(15, 16, 18), ended_at=18, num_tokens=4)
    assert stream.ttft_s == 5
    assert stream.decode_rate == 1


def test_an_answer_without_text_is_no_faster_than_one_token() -> None:
    """Beside busy processes nothing may come at all: the rate is then at most one token in that time."""
    assert Stream(asked_at=0, arrivals=(), ended_at=50, error="late").decode_rate == 1 / 50


def test_gaps_are_counted_where_they_touch_the_time_in_question() -> None:
    """A pause that began before it or ends after it was a pause in it too."""
    stream = Stream(asked_at=0, arrivals=(1, 2, 5, 6, 9, 10), ended_at=10)
    assert stream.gaps(4, 7) == [3, 1, 3]


def test_a_fleet_is_as_fast_as_what_it_answered() -> None:
    """A failed answer takes time and brings no tokens; a check names it."""
    fleet = Fleet((Stream(0, (1,), 4, num_tokens=8), Stream(0, (), 2, error="HTTP/1.1 400")))
    assert fleet.rate == 2
    with pytest.raises(ValueError, match=r"side: 1 of 2 answers failed: HTTP/1\.1 400"):
        fleet.check_complete("side")


def test_answers_that_end_early_are_not_compared() -> None:
    """With fewer tokens than were asked for the work was another."""
    fleet = Fleet((Stream(0, (1,), 4, num_tokens=8),))
    fleet.check_complete("side", num_tokens=8)
    with pytest.raises(ValueError, match=r"answers of 64 tokens ended after 8\.0"):
        fleet.check_complete("side", num_tokens=64)


# What goes over the wire.


def event(**tree: object) -> bytes:
    return json.dumps(tree).encode()


def text_event(text: str | None) -> bytes:
    return event(choices=[{"delta": {"content": text}}])


def test_only_text_is_an_arrival() -> None:
    """The opening chunk has no text, and the counts come in one without choices."""
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}
    events = [
        (1.0, text_event(None)),
        (2.0, text_event("a")),
        (3.0, text_event("b")),
        (4.0, event(choices=[], usage=usage)),
        (4.0, b"[DONE]"),
    ]
    stream = understand(0.5, events, 4.0, "")
    assert stream == Stream(0.5, (2.0, 3.0), 4.0, num_prompt=7, num_cached=5, num_tokens=2)


def test_a_stream_without_its_end_is_an_error_and_keeps_what_came() -> None:
    """The connection may break in mid-answer, or the server say what happened as its last event."""
    cut = understand(0, [(1.0, text_event("a"))], 2.0, "")
    assert cut.error == "the stream ended early"
    assert cut.arrivals == (1.0,)
    assert understand(0, [(1.0, event(error={"message": "no room"}))], 2.0, "").error == "no room"


def test_chunks_are_put_together_as_http_cuts_them() -> None:
    """Sizes are hexadecimal, and a chunk of none is the end."""

    async def read() -> list[bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(b"b\r\ndata: hello\r\n2\r\n\n\n\r\n0\r\n\r\n")
        return [chunk async for chunk in chunks(reader)]

    assert asyncio.run(read()) == [b"data: hello", b"\n\n"]


def test_a_device_asks_its_next_question_after_the_last_frame() -> None:
    """Deltas are arrivals, the terminal frame has the counts, and each question has an id of its own."""
    device = Device("device-3", [Question("one", 8), Question("two", 8, system="Be brief.")])
    first = json.loads(device.request())
    assert not device.take({"type": "accepted"}, at=1.0)
    assert not device.take({"type": "delta"}, at=2.0)
    assert device.take({"type": "done", "usage": {"prompt": 9, "cached": 0, "completion": 8}}, at=3.0)
    second = json.loads(device.request())
    assert (first["id"], first["prompt"], "system" in first) == ("device-3-0", "one", False)
    assert (second["id"], second["prompt"], second["system"]) == ("device-3-1", "two", "Be brief.")
    assert device.take({"type": "error", "message": "busy"}, at=4.0)
    assert device.is_done
    assert [(stream.num_tokens, stream.error) for stream in device.streams] == [(8, ""), (0, "busy")]


def test_no_two_clients_ask_the_same() -> None:
    """Only the system prompt may be shared: equal questions would be cached for each other."""
    groups = conversations(system="You tell stories.")
    prompts = {question.prompt for group in groups for question in group}
    assert len(groups) == NUM_CLIENTS
    assert len(prompts) == sum(map(len, groups))


# Figures.


@pytest.mark.parametrize(
    ("figure", "is_met"),
    [
        (Figure("", "tok/s", "", at_least=2, pairs=[(30, 10), (10, 10), (20, 10)]), True),
        (Figure("", "ms", "", at_most=0.25, pairs=[(30, 100)]), False),
        (Figure("", "ms", "", compare="own", at_most=250, pairs=[(240, 7000)]), True),
        (Figure("", "", "", compare="difference", at_least=0, pairs=[(32, 19)]), True),
        (Figure("", "ms", "", pairs=[(1, 2)]), None),
        (Figure("", "MiB", "", at_most=0.5, note="no cgroup"), None),
    ],
)
def test_a_figure_is_judged_by_the_median_of_its_comparisons(figure: Figure, is_met: bool | None) -> None:
    """Ratios and differences are of pairs; of an `own` figure the peer's number decides nothing."""
    assert figure.is_met is is_met
    assert figure.to_tree()["met"] is is_met


def test_the_table_says_what_was_missed_and_what_was_not_measured() -> None:
    """A wanted value that is not reached stands out, and a missing figure has its reason."""
    missed = Figure("speed", "tok/s", "llama-server", at_least=2, pairs=[(10, 10)])
    own = Figure("gap", "ms", "llama-server", compare="own", at_most=250, pairs=[(240, 7000)])
    absent = Figure("memory", "MiB", "llama-server", at_most=0.5, note="no cgroup")
    rows = table([missed, own, absent]).splitlines()[2:]
    assert rows == [
        "| speed | 10.0 tok/s | 10.0 tok/s, llama-server | 1.000 | 1.000 to 1.000 | >= 2: MISSED |",
        "| gap | 240.0 ms | 7000.0 ms, llama-server | 240.0 ms | 240.0 ms to 240.0 ms | <= 250 ms: met |",
        "| memory | not measured: no cgroup |  |  |  | <= 0.5 |",
    ]


# Memory limits.


@pytest.mark.parametrize("threshold", [0, 32, 33, 36, 200, 636, 640])
def test_the_smallest_limit_is_found(threshold: int) -> None:
    """The answer is the first step at or above what is needed, in a few tries."""
    tried: list[int] = []

    def works(limit: int) -> bool:
        tried.append(limit)
        return limit >= threshold

    assert smallest(works, 32, 640, 4) == max(32, -(-threshold // 4) * 4)
    assert len(tried) == len(set(tried)) <= 9


def test_what_never_works_has_no_smallest_limit() -> None:
    """It is asked once, at the top."""
    tried: list[int] = []
    assert smallest(lambda limit: bool(tried.append(limit)), 32, 640, 4) is None
    assert tried == [640]


def fake_system(root: Path, membership: str, *folders: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for folder in folders:
        (root / "sys/fs/cgroup" / folder).mkdir(parents=True)
    return root / "sys/fs/cgroup"


def test_version_1_makes_groups_within_our_own(tmp_path: Path) -> None:
    """The memory controller's own hierarchy counts, wherever the unified one is."""
    membership = "4:memory:/user/me\n0::/\n"
    base = fake_system(tmp_path, membership, "memory/user/me", "unified")
    assert candidates(tmp_path)[:2] == [(base / "memory/user/me", V1), (base / "memory", V1)]


def test_version_2_makes_groups_beside_our_own(tmp_path: Path) -> None:
    """A group that has processes can have no children with limits."""
    base = fake_system(tmp_path, "0::/user.slice/me.scope\n", "user.slice/me.scope")
    assert candidates(tmp_path) == [(base / "user.slice", V2), (base, V2)]


def test_a_system_without_the_controller_says_so_and_keeps_nothing(tmp_path: Path) -> None:
    """A folder that does not become a group, as in any other file system, is removed again."""
    base = fake_system(tmp_path, "0::/me\n", "me")
    assert why_not(tmp_path) == "no memory cgroup can be made here (No such file or directory)"
    assert why_not(tmp_path / "elsewhere").startswith("no memory cgroup can be made here")
    assert [path.name for path in base.iterdir()] == ["me"]
