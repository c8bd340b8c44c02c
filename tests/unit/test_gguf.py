"""A model file is looked at by our own bounded reader before any C++ parser sees it."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.catalog import gguf_bytes
from agent.catalog.gguf import COPY_AGAIN, TensorInfo, read_header
from agent.errors import ModelFileError
from tests.support.gguf_builder import (
    DEFAULT_KEYS,
    F32_TENSOR,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Key,
    Tensor,
    build,
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def written(tmp_path: Path):
    """A function that writes bytes to a model file and returns its path."""

    def write(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return write


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as refused:
        read_header(path)
    text = str(refused.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("version", [2, 3])
def test_a_whole_file_tells_its_metadata_and_tensors(written, version: int) -> None:
    """Scalars and short strings are kept, arrays are counted, tensors are measured."""
    header = read_header(written(build(version=version)))

    assert header.version == version
    assert header.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert header.lengths == {"tokenizer.ggml.tokens": 4, "tokenizer.ggml.token_type": 4}
    assert header.tensors == (
        TensorInfo("output_norm.weight", "F32", (8,), 0, 32),
        TensorInfo("token_embd.weight", "Q4_1", (32, 4), 32, 80),
    )
    assert header.num_tensors == 2
    assert header.data_offset % header.alignment == 0


def test_a_vocabulary_without_tensors_is_a_header(written) -> None:
    """Such files ship with llama.cpp; nothing has to follow their header."""
    assert read_header(written(build(tensors=()))).tensors == ()


def test_another_alignment_is_obeyed(written) -> None:
    """general.alignment moves the data and the second tensor."""
    header = read_header(written(build([Key("general.alignment", U32, 64)], alignment=64)))

    assert header.alignment == 64
    assert header.tensors[1].offset == 64


def test_a_long_string_is_skipped_and_its_length_kept(written) -> None:
    """A chat template of 30 KB is not carried around by everyone who asks for the header."""
    header = read_header(written(build([Key("tokenizer.chat_template", STRING, "x" * 5000)])))

    assert header.metadata == {}
    assert header.lengths == {"tokenizer.chat_template": 5000}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a GGUF file, it has 0 bytes; fetch it again with: tampu models fetch"),
        (b"<!DOCTYPE html>", "not a GGUF file, it begins with b'<!DO'; fetch it again"),
        (b"lmgg" + bytes(32), "a GGML file, from before GGUF; convert the model again with llama.cpp's"),
        (b"fmgg" + bytes(32), "a GGMF file, from before GGUF; convert the model again"),
        (b"tjgg" + bytes(32), "a GGJT file, from before GGUF; convert the model again"),
        (build(version=1), "GGUF version 1 is no longer read; convert the model again"),
        (build(version=4), "GGUF version 4 is not known"),
        (build(byte_order=">"), "a big-endian GGUF file; convert the model again"),
        (build()[:100], "the file ends inside its header, after 100 bytes; fetch it again"),
        (build([Key("split.count", U16, 3)]), "one of 3 parts of a split model; join them with"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_remedy(written, content: bytes, reason: str) -> None:
    """Each kind of wrong file has its own sentence."""
    assert refusal(written(content)).startswith(reason)


def test_a_truncated_file_tells_how_much_is_there(written) -> None:
    """The commonest damage: a download that stopped."""
    whole = build()
    needed = len(whole) - 16  # the padding after the last tensor may be missing

    assert read_header(written(whole[:needed]))
    assert refusal(written(whole[: needed - 1])) == (
        f"the file ends before its tensors do: {needed - 1} of {needed} bytes; "
        "fetch it again with: tampu models fetch"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (build([Key("a", U32, 1), Key("a", U32, 1)]), "'a' is empty or there twice"),
        (build([Key("", U32, 1)]), "'' is empty or there twice"),
        (build([Key("general.alignment", U32, 48)]), "an alignment of 48 is no power of two"),
        (build([Key("general.alignment", U32, 0)]), "an alignment of 0 is no power of two"),
        (build([Key("general.alignment", U64, 32)]), "'general.alignment' has type 10"),
        (build(tensors=[Tensor("t" * 64, (8,), F32_TENSOR, 32)]), "a tensor name of 64 bytes, at most 63"),
        (build(tensors=[Tensor("t", (1,) * 5, F32_TENSOR, 4)]), "5 dimensions, at most 4"),
        (build(tensors=[Tensor("t", (8,), 4, 32)]), "unknown type 4"),
        (build(tensors=[Tensor("t", (33,), 3, 32)]), "'t' (Q4_1) has rows of 33"),
        (build(tensors=[Tensor("t", (1 << 40, 1 << 40), F32_TENSOR, 32)]), "too large"),
        (build(tensors=[Tensor("t", (0, 1 << 63), F32_TENSOR, 32)]), "too large"),
        (build(tensors=[Tensor("t", (8,), F32_TENSOR, 32, 32)]), "lies at 32, not at 0"),
        (build(tensors=[Tensor("t", (8,), F32_TENSOR, 32)] * 2), "'t' is there twice"),
    ],
)
def test_what_llama_cpp_refuses_is_refused(written, content: bytes, reason: str) -> None:
    """The rules of ggml/src/gguf.cpp, one file each."""
    assert reason in refusal(written(content))


def test_counts_that_no_real_file_has_are_refused_at_once(written) -> None:
    """A header that promises 2**60 of anything costs neither time nor memory."""
    head = b"GGUF" + (3).to_bytes(4, "little")
    huge = (1 << 60).to_bytes(8, "little")
    one = (1).to_bytes(8, "little")
    array_of_strings = one + b"a" + (9).to_bytes(4, "little") + (8).to_bytes(4, "little")
    for content in (head + huge + one, head + one + huge, head + bytes(8) + one + array_of_strings + huge):
        begun = time.monotonic()
        assert "fetch it again" in refusal(written(content))
        assert time.monotonic() - begun < 0.5


def test_a_header_is_never_read_past_its_bound(written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when the file is longer."""
    monkeypatch.setattr(gguf_bytes, "MAX_HEADER_BYTES", 4096)
    content = build([Key("a", U8, [0] * 8192)])

    assert "a header of more than 4096 bytes" in refusal(written(content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (build([Key("general.alignment\0", U32, 64)]), "a metadata key with a zero byte in it"),
        (build(tensors=[Tensor("t\0u", (8,), F32_TENSOR, 32)]), "a tensor name with a zero byte in it"),
        (build([Key("general.alignment", U32, 4)], alignment=4), "an alignment of 4 is no multiple of 8"),
        (build(tensors=[Tensor("", (8,), F32_TENSOR, 32)]), "a tensor without a name"),
    ],
)
def test_what_llama_cpp_would_read_otherwise_than_we_do_is_refused(
    written, content: bytes, reason: str
) -> None:
    """It compares names up to their first zero byte, and would find an alignment we have not seen."""
    assert reason in refusal(written(content))


@pytest.mark.parametrize("words", [["a", "b", "a"], ["a", "a\0b"]])
def test_a_vocabulary_with_the_same_token_twice_is_refused(written, words: list[str]) -> None:
    """llama.cpp ends the process there; it reads a token up to its first zero byte."""
    content = build([Key("tokenizer.ggml.tokens", STRING, words)])

    assert "two tokens of the vocabulary are the same" in refusal(written(content))


def test_empty_tokens_and_the_same_merge_twice_are_no_damage(written) -> None:
    """llama.cpp gives empty tokens a name by their number."""
    tokens = Key("tokenizer.ggml.tokens", STRING, ["", "a", "", "\0"])

    assert read_header(written(build([tokens, Key("tokenizer.ggml.merges", STRING, ["a b", "a b"])])))


def test_the_texts_that_are_kept_are_bounded_together(written) -> None:
    """A thousand long keys are no reason to fill a small board's memory."""
    keys = [Key(f"{number:04}" + "k" * 8000, STRING, "v" * 4096) for number in range(500)]

    assert "bytes of keys and values" in refusal(written(build(keys)))


def test_a_file_that_no_manifest_knows_has_another_remedy(written) -> None:
    """`tampu models fetch` would not bring it back."""
    path = written(build()[:-40])

    with pytest.raises(ModelFileError, match=r"copy it again from where it came from$"):
        read_header(path, COPY_AGAIN)


def test_a_vocabulary_of_262144_words_is_skipped_in_half_a_second(written) -> None:
    """The largest vocabularies in use; their strings are walked over, not kept."""
    words = Key("tokenizer.ggml.tokens", STRING, [f"word{number}" for number in range(262_144)])
    path = written(build([*DEFAULT_KEYS[:4], words]))

    begun = time.process_time()
    header = read_header(path)

    assert time.process_time() - begun < 0.5
    assert header.lengths == {"tokenizer.ggml.tokens": 262_144}


def test_a_missing_file_names_the_command_that_fetches_it(tmp_path: Path) -> None:
    """The first thing a new user meets."""
    assert refusal(tmp_path / "model.gguf") == "no such model file; fetch it with: tampu models fetch"


def test_a_pipe_is_refused_without_waiting_for_its_other_end(tmp_path: Path) -> None:
    """Opening it would block for ever."""
    os.mkfifo(tmp_path / "model.gguf")

    assert refusal(tmp_path / "model.gguf") == "not a regular file; name a GGUF file"


WHOLE = build()
NUMBERS = st.sampled_from(
    [0, 1, 4, 8, 9, 31, 255, 1 << 16, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, (1 << 64) - 1]
)
POSITIONS = st.integers(0, len(WHOLE) - 1)
MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("overwrite"), POSITIONS, st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("overwrite"), POSITIONS, NUMBERS.map(lambda number: number.to_bytes(8, "little"))),
        st.tuples(st.just("insert"), POSITIONS, st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("cut"), POSITIONS, st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("end"), POSITIONS, st.just(b"")),
    ),
    min_size=1,
    max_size=4,
)


def mutate(content: bytes, mutations: list[tuple[str, int, bytes]]) -> bytes:
    for kind, position, piece in mutations:
        head, tail = content[:position], content[position:]
        if kind == "overwrite":
            content = head + piece + tail[len(piece) :]
        elif kind == "insert":
            content = head + piece + tail
        else:
            content = head + (tail[len(piece) :] if kind == "cut" else b"")
    return content


@pytest.mark.timeout(120)
@settings(
    max_examples=3000,
    deadline=None,  # the whole test has one
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(mutations=MUTATIONS)
def test_whatever_the_bytes_a_header_comes_back_or_the_named_error(written, mutations) -> None:
    """Thousands of damaged headers: no other exception, and no tensor outside the file."""
    content = mutate(WHOLE, mutations)
    path = written(content)
    try:
        header = read_header(path)
    except ModelFileError:
        return
    for tensor in header.tensors:
        assert header.data_offset + tensor.offset + tensor.num_bytes <= len(content)
