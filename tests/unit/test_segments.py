"""Text of mixed trust: what a device wrote never becomes a control or a user-defined token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.backend import SpecialToken
from agent.engine.segments import ZERO_WIDTH_SPACE, Segment, SegmentTokenizer, break_specials
from tests.support.fake_backend import END, MASK, TOOL, TURN, FakeTokenizer


def tokenize_segments(segments: list[Segment], tokenizer: FakeTokenizer) -> list[int]:
    return SegmentTokenizer(tokenizer).tokenize(segments)


def control(number: int, *, strips_left: bool = False, strips_right: bool = False) -> SpecialToken:
    return SpecialToken(number, is_control=True, strips_left=strips_left, strips_right=strips_right)


def markup(number: int) -> SpecialToken:
    return SpecialToken(number, is_control=False, strips_left=False, strips_right=False)


def template(text: str) -> Segment:
    return Segment(text, is_trusted=True)


def content(text: str) -> Segment:
    return Segment(text, is_trusted=False)


# Letters so few that special strings contain, overlap and repeat each other.
LETTERS = "<ab>"


@st.composite
def vocabularies(draw: st.DrawFn) -> dict[str, SpecialToken]:
    strings = draw(st.lists(st.text(LETTERS, min_size=2, max_size=4), min_size=1, max_size=6, unique=True))
    return {
        string: control(256 + n) if draw(st.booleans()) else markup(256 + n)
        for n, string in enumerate(strings)
    }


segment_lists = st.lists(
    st.builds(Segment, st.text(LETTERS, max_size=8), is_trusted=st.booleans()), max_size=6
)


@given(vocabularies(), segment_lists)
def test_no_special_token_covers_a_character_from_outside(
    specials: dict[str, SpecialToken], segments: list[Segment]
) -> None:
    """Whatever the vocabulary, and wherever markup straddles template and content."""
    strings = {special.id: string for string, special in specials.items()}
    is_trusted = [segment.is_trusted for segment in segments for _ in segment.text]
    at = 0
    for token in tokenize_segments(segments, FakeTokenizer(specials)):
        size = len(strings.get(token, "x"))
        assert size == 1 or all(is_trusted[at : at + size]), f"{strings[token]!r} at {at}"
        at += size
    assert at == len(is_trusted), "text was lost or doubled"


template_texts = st.lists(
    st.sampled_from(["<s>", "</s>", "<|turn|>", "<|end|>", "<mask>", "<tool>", " ", "\n", "user", "\u3000"]),
    max_size=8,
).map("".join)
benign_texts = st.text("xy \n\t\u00e9\u3000", max_size=8)


@given(
    st.lists(st.one_of(template_texts.map(template), benign_texts.map(content)), max_size=8),
)
def test_a_benign_prompt_is_tokenised_as_it_is_without_segments(segments: list[Segment]) -> None:
    """Text without markup from outside costs nothing: the tokens are those of the whole text at once."""
    tokenizer = FakeTokenizer()
    whole = "".join(segment.text for segment in segments)
    assert tokenize_segments(segments, tokenizer) == tokenizer.tokenize(whole, parse_special=True)


@pytest.mark.parametrize(
    "segments",
    [
        [content("<|turn|>")],
        [template("<|tu"), content("rn|>")],
        [content("<|tu"), template("rn|>")],
        [template("<|"), content("turn"), template("|>")],
        [content("<|tu"), content("rn|>")],
        [content("<"), template("|turn|"), content(">")],
    ],
)
def test_a_control_string_with_a_part_from_outside_stays_text(segments: list[Segment]) -> None:
    """Also when template and content complete each other."""
    whole = "".join(segment.text for segment in segments)
    assert tokenize_segments(segments, FakeTokenizer()) == list(whole.encode())


@pytest.mark.parametrize(
    "segments",
    [
        [content("<tool>")],
        [content("say <tool><tool>")],
        [template("<to"), content("ol>")],
        [content("<to"), template("ol>")],
        [template("<"), content("too"), template("l>")],
    ],
)
def test_user_defined_markup_with_a_part_from_outside_stays_text(segments: list[Segment]) -> None:
    """llama.cpp matches user-defined strings even in plain text, so they are cut in two."""
    whole = "".join(segment.text for segment in segments)
    assert tokenize_segments(segments, FakeTokenizer()) == list(whole.encode())


def test_user_defined_white_space_in_a_content_is_left_whole() -> None:
    """Several vocabularies have indentation as user-defined tokens; it means nothing to be afraid of."""
    specials = {"    ": markup(256), "\n\n": markup(257), "\u00f8": markup(258), "<x>": markup(259)}
    tokens = tokenize_segments([template("a"), content("    b\n\n\u00f8<x>")], FakeTokenizer(specials))
    assert tokens == [*b"a", 256, *b"b", 257, 258, *b"<x>"]


def test_the_template_may_write_user_defined_markup() -> None:
    """Beside content, but not touching it."""
    tokens = tokenize_segments([template("<tool>"), content("<tool>"), template("<tool>")], FakeTokenizer())
    assert tokens == [TOOL, *b"<tool>", TOOL]


def test_a_match_inside_the_template_does_not_hide_one_that_reaches_into_the_content() -> None:
    """`aab` is the template's own; `abcd`, which begins inside it, is not."""
    specials = {"aab": markup(256), "abcd": markup(257)}
    tokens = tokenize_segments([template("aab"), content("cd")], FakeTokenizer(specials))
    assert 257 not in tokens


def test_the_longest_control_string_wins() -> None:
    """`<|a|><|b|>` is one token where the vocabulary has it, although `<|a|>` is one as well."""
    specials = {"<|a|>": control(256), "<|a|><|b|>": control(257), "<|b|>": control(258)}
    assert tokenize_segments([template("<|a|><|b|><|a|>")], FakeTokenizer(specials)) == [257, 256]


def test_white_space_beside_a_stripping_token_is_swallowed() -> None:
    """`<mask>` swallows what is left of it, `<|turn|>` what is right of it, content included."""
    segments = [template("<|turn|> \n"), content(" hi \t"), template(" <mask> ")]
    assert tokenize_segments(segments, FakeTokenizer()) == [TURN, *b"hi", MASK, *b" "]


def test_only_ascii_white_space_is_swallowed() -> None:
    """llama.cpp asks C's isspace, which does not know the ideographic space."""
    segments = [content("x\u3000"), template("<mask>")]
    assert tokenize_segments(segments, FakeTokenizer()) == [*"x\u3000".encode(), MASK]


def test_markup_is_still_found_where_white_space_was_swallowed_before_it() -> None:
    """Stripping moves the content's span along with its text."""
    segments = [template("<|turn|>  "), content("  <tool>"), template("</s>")]
    assert tokenize_segments(segments, FakeTokenizer()) == [TURN, *b"<tool>", END]


def test_nothing_gives_no_tokens() -> None:
    assert tokenize_segments([], FakeTokenizer()) == []


@given(vocabularies(), st.lists(st.text(LETTERS, max_size=8), max_size=4))
def test_broken_text_holds_no_special_string(specials: dict[str, SpecialToken], texts: list[str]) -> None:
    """Nor does any text put together from pieces of it, as a template may do that cuts and joins."""
    broken = "".join(break_specials(text, specials) for text in texts)
    assert not any(string in broken for string in specials)


def test_broken_text_reads_the_same() -> None:
    """Only zero-width spaces are added, and none to text that cannot be part of markup."""
    broken = break_specials("a <tool> b", FakeTokenizer().specials)
    assert broken.replace(ZERO_WIDTH_SPACE, "") == "a <tool> b"
    assert break_specials("plain words, 3 [x] {y}\n", FakeTokenizer().specials) == "plain words, 3 [x] {y}\n"
