"""The detokeniser: what a reader sees does not depend on how the tokens cut the bytes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.detokenizer import Detokenizer

# Few letters, so that stop strings overlap each other and the text; some take two to four bytes.
texts = st.text(alphabet="ab\u20ac\U0001f999", max_size=30)
stops = st.lists(st.text(alphabet="ab\u20ac", min_size=1, max_size=4), max_size=4).map(tuple)
any_bytes = st.lists(st.one_of(st.binary(max_size=3), texts.map(str.encode)), max_size=8).map(b"".join)


@st.composite
def pieces_of(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    """Some bytes, cut anywhere, also inside a code point."""
    whole = draw(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [whole[start:end] for start, end in pairwise([0, *cuts, len(whole)])]


def portions(pieces: list[bytes], stop: tuple[str, ...] = ()) -> list[str]:
    """What each piece released, and at last what the end did."""
    detokenizer = Detokenizer(stop)
    return [*[detokenizer.feed(piece) for piece in pieces], detokenizer.finish()]


def cut_at_first_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text before the stop string that is complete first; of two ending together, the longer."""
    found = [(text.find(string) + len(string), text.find(string)) for string in stop if string in text]
    return text[: min(found)[1]] if found else text


@given(pieces_of(texts.map(str.encode)), stops)
def test_the_answer_is_the_text_up_to_the_first_stop_string_however_it_was_cut(
    pieces: list[bytes], stop: tuple[str, ...]
) -> None:
    """Any pieces, any stop strings: the portions add up to the text before the first one."""
    assert "".join(portions(pieces, stop)) == cut_at_first_stop(b"".join(pieces).decode(), stop)


@given(pieces_of(any_bytes))
def test_bytes_that_are_no_text_become_what_python_makes_of_them(pieces: list[bytes]) -> None:
    """Invalid UTF-8 turns into the same U+FFFD whether it comes at once or byte by byte."""
    assert "".join(portions(pieces)) == b"".join(pieces).decode(errors="replace")


@given(pieces_of(any_bytes), stops)
def test_the_same_pieces_give_the_same_portions_again(pieces: list[bytes], stop: tuple[str, ...]) -> None:
    """Another process that replays the tokens stands exactly where the first one stood."""
    assert portions(pieces, stop) == portions(pieces, stop)


@given(pieces_of(texts.map(str.encode)), stops)
def test_no_part_of_a_stop_string_is_sent_before_the_whole_of_it_was_ruled_out(
    pieces: list[bytes], stop: tuple[str, ...]
) -> None:
    """At no time does the sent text end in what the rest of the answer makes a stop string."""
    final = cut_at_first_stop(b"".join(pieces).decode(), stop)
    sent = ""
    for portion in portions(pieces, stop):
        sent += portion
        assert final.startswith(sent)


@given(pieces_of(texts.map(str.encode)), stops)
def test_nothing_is_held_back_without_a_reason(pieces: list[bytes], stop: tuple[str, ...]) -> None:
    """What is held back after a piece begins a stop string or is half a code point."""
    detokenizer = Detokenizer(stop)
    sent, seen = "", b""
    for piece in pieces:
        sent += detokenizer.feed(piece)
        seen += piece
        if detokenizer.stopped:
            return
        held = seen.decode(errors="ignore")[len(sent) :]
        assert not held or any(string.startswith(held) and string != held for string in stop)


@pytest.mark.parametrize("pieces", [[b"xabc"], [b"xa", b"bc"], [b"x", b"a", b"b", b"c"]])
def test_of_overlapping_stop_strings_the_first_complete_one_counts(pieces: list[bytes]) -> None:
    """`b` is complete before `abc` is, also when one token brings both."""
    assert "".join(portions(pieces, ("abc", "b"))) == "xa"


def test_after_a_stop_string_nothing_more_is_said() -> None:
    """Pieces after the stop string are swallowed, and so is the end."""
    detokenizer = Detokenizer(("END",))
    assert detokenizer.feed(b"one END two") == "one "
    assert detokenizer.stopped
    assert detokenizer.feed(b"three") == ""
    assert detokenizer.finish() == ""


def test_half_a_code_point_waits_for_its_other_half() -> None:
    """The first two bytes of the euro sign say nothing; the third says it."""
    detokenizer = Detokenizer()
    assert [detokenizer.feed(piece) for piece in (b"1 \xe2", b"\x82", b"\xac")] == ["1 ", "", "\u20ac"]


def test_half_a_code_point_at_the_end_becomes_the_replacement_character() -> None:
    """An answer cut by its length may end inside a character: the reader is told that one is missing."""
    detokenizer = Detokenizer()
    detokenizer.feed(b"\xf0\x9f")
    assert detokenizer.finish() == "\ufffd"


def test_a_held_back_beginning_of_a_stop_string_is_sent_when_the_answer_ends() -> None:
    """Nothing the model said is lost because it looked like a stop string."""
    detokenizer = Detokenizer(("STOP",))
    assert detokenizer.feed(b"a ST") == "a "
    assert detokenizer.finish() == "ST"
