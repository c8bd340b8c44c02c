"""Tokenisation of mixed trust over llama.cpp's own vocabularies and the chat templates of the families.

`tests/support/corpus.py` opens and pairs them. Nothing is left out in silence: what a template refuses or
rewrites stands here with its reason, and a corpus of other files than those named here fails.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import cycle, islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.engine.chat_template import ChatTemplate
from agent.engine.prefix import common_length
from agent.engine.segments import ZERO_WIDTH_SPACE, is_markup
from agent.errors import BadRequest
from agent.request import Message
from tests.support.corpus import (
    FOLDER,
    Paired,
    close,
    markup_in,
    template_names,
    template_source,
    vocabulary,
    vocabulary_names,
)

# ---- what there is -------------------------------------------------------------------------------------

VOCABULARIES = (  # noqa: SIM905 - a list of one a line says no more
    "aquila baichuan bert-bge command-r deepseek-coder deepseek-llm falcon gemma-4 gpt-2 gpt-neox llama-bpe "
    "llama-spm mpt nomic-bert-moe phi-3 qwen2 qwen35 refact starcoder"
).split()

# Every template, with its own family's vocabulary where that is among the above.
FAMILY = {
    "Apertus-8B-Instruct": None,
    "Apriel-1.6-15b-Thinker-fixed": None,
    "Bielik-11B-v3.0-Instruct": None,
    "ByteDance-Seed-OSS": None,
    "Cohere2MoE": "command-r",
    "CohereForAI-c4ai-command-r-plus-tool_use": "command-r",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command-r",
    "GLM-4.6": None,
    "GLM-4.7-Flash": None,
    "GigaChat3-10B-A1.8B": None,
    "GigaChat3.1-10B-A1.8B": None,
    "HuggingFaceTB-SmolLM3-3B": "llama-bpe",
    "Kimi-K2-Instruct": None,
    "Kimi-K2-Thinking": None,
    "Kimi-K3": None,
    "LFM2-8B-A1B": None,
    "LFM2.5-8B-A1B": None,
    "LFM2.5-Instruct": None,
    "MiMo-VL": "qwen2",
    "MiniMax-M1": None,
    "MiniMax-M2": None,
    "MiniMax-M3": None,
    "Mistral-Small-3.2-24B-Instruct-2506": None,
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": None,
    "NVIDIA-Nemotron-Nano-v2": None,
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "llama-bpe",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "llama-bpe",
    "Qwen-QwQ-32B": "qwen2",
    "Qwen-Qwen2.5-7B-Instruct": "qwen2",
    "Qwen-Qwen3-0.6B": "qwen2",
    "Qwen3-Coder": "qwen2",
    "Qwen3.5-4B": "qwen35",
    "Reka-Edge": None,
    "Spark2.5": None,
    "StepFun3.5-Flash": None,
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "llama-bpe",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "qwen2",
    "deepseek-ai-DeepSeek-V3.1": "deepseek-llm",
    "deepseek-ai-DeepSeek-V3.2": "deepseek-llm",
    "deepseek-ai-DeepSeek-V4": "deepseek-llm",
    "deepseek-ai-DeepSeek-V4-Flash-0731": "deepseek-llm",
    "fireworks-ai-llama-3-firefunction-v2": "llama-bpe",
    "google-gemma-2-2b-it": "gemma-4",
    "google-gemma-4-31B-it": "gemma-4",
    "google-gemma-4-31B-it-interleaved": "gemma-4",
    "ibm-granite-granite-3.3-2B-Instruct": "starcoder",
    "ibm-granite-granite-4.0": None,
    "ibm-granite-granite-4.1": None,
    "inclusionai-ling-3.0-flash": None,
    "llama-cpp-deepseek-r1": "deepseek-llm",
    "llama-cpp-rwkv-world": None,
    "meetkai-functionary-medium-v3.1": "llama-bpe",
    "meetkai-functionary-medium-v3.2": "llama-bpe",
    "meta-llama-Llama-3.1-8B-Instruct": "llama-bpe",
    "meta-llama-Llama-3.2-3B-Instruct": "llama-bpe",
    "meta-llama-Llama-3.3-70B-Instruct": "llama-bpe",
    "microsoft-Phi-3.5-mini-instruct": "phi-3",
    "mistralai-Ministral-3-14B-Reasoning-2512": None,
    "mistralai-Mistral-Nemo-Instruct-2407": None,
    "moonshotai-Kimi-K2": None,
    "muse-glimmer": None,
    "openai-gpt-oss-120b": None,
    "openbmb-MiniCPM5-1B": None,
    "poolside-Laguna-S-2.1": None,
    "poolside-Laguna-XS-2.1": None,
    "poolside-Laguna-XS.2": None,
    "tencent-Hy3": None,
    "unsloth-Apriel-1.5": None,
    "unsloth-mistral-Devstral-Small-2507": None,
    "upstage-Solar-Open-100B": None,
}

# All templates meet these as well: byte pairs and sentencepiece with every template's markup appended. The
# latter's swallow white space on their right; nomic-bert-moe's `<mask>`, below, does on its left.
FOR_ALL = ("qwen2+", "phi-3+")

SHAPES = {
    "user": ("user",),
    "system": ("system", "user"),
    "two users": ("user", "user"),
    "answered": ("user", "assistant", "user"),
    "dialogue": ("system", "user", "assistant", "user"),
}

# What a template refuses, in words of its refusal.
NEEDS_TOOLS = dict.fromkeys(SHAPES, "'NoneType' object is not iterable")  # it lists them without asking
ALTERNATES = {"two users": "roles must alternate"}
REFUSED = {
    "CohereForAI-c4ai-command-r-plus-tool_use": NEEDS_TOOLS,
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": NEEDS_TOOLS,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": NEEDS_TOOLS,
    "fireworks-ai-llama-3-firefunction-v2": dict.fromkeys(SHAPES, "'functions' is undefined"),
    "google-gemma-2-2b-it": ALTERNATES | dict.fromkeys(("system", "dialogue"), "System role not supported"),
    "Mistral-Small-3.2-24B-Instruct-2506": ALTERNATES,
    "mistralai-Ministral-3-14B-Reasoning-2512": ALTERNATES,
    "mistralai-Mistral-Nemo-Instruct-2407": ALTERNATES,
}

# ---- pairs ---------------------------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
# Takes contents apart, so that their places in its output are not known.
CUTS = "{% for m in messages %}{{ m.content.split('!')[-1] }}</s>{{ m.content | trim }}{% endfor %}"
OURS = {"CHATML": CHATML, "CUTS": CUTS}

PAIRS = [
    (template, name) for template, own in FAMILY.items() for name in dict.fromkeys((own, *FOR_ALL)) if name
]


@cache
def chat(template: str, name: str) -> ChatTemplate:
    """The template over the vocabulary, compiled once."""
    return ChatTemplate(Paired(vocabulary(name), OURS.get(template) or template_source(template)))


def tokenize(template: str, name: str, roles: Sequence[str], contents: Iterable[str]) -> list[int]:
    return chat(template, name).tokenize(messages(roles, contents))


def messages(roles: Sequence[str], contents: Iterable[str]) -> list[Message]:
    said: Any = zip(roles, contents, strict=False)
    return [Message(role, content) for role, content in said]


def shapes(template: str) -> list[tuple[str, ...]]:
    """The conversations it takes, the longest last."""
    refused = REFUSED.get(template, {})
    return [roles for shape, roles in SHAPES.items() if shape not in refused]


@cache
def markup_ids(name: str) -> frozenset[int]:
    """Control tokens and user-defined ones."""
    # What BERT makes of each word that it does not know is a control token as well.
    unknown = "[UNK]" if name == "bert-bge" else ""
    specials = vocabulary(name).specials.items()
    return frozenset(special.id for text, special in specials if is_markup(text) and text != unknown)


def markup_of(tokens: Sequence[int], name: str) -> list[int]:
    return [token for token in tokens if token in markup_ids(name)]


@cache
def benign_markup(template: str, name: str, roles: tuple[str, ...]) -> list[int]:
    """What stands in the prompt of a conversation about nothing."""
    return markup_of(tokenize(template, name, roles, ["xx x"] * len(roles)), name)


def check_hostile(template: str, name: str, roles: tuple[str, ...], contents: Sequence[str]) -> None:
    tokens = tokenize(template, name, roles, contents)
    assert markup_of(tokens, name) == benign_markup(template, name, roles), contents


# ---- hostile contents ----------------------------------------------------------------------------------


def disguised(string: str) -> str:
    """A special string in many forms, one of which might get through."""
    half = len(string) // 2
    head, tail = string[:half], string[half:]
    forms = [
        string,
        f" \n{string}\n ",
        f"{string}{string}",
        f"\u3000{string}\u00a0",
        f"{string[:-1]}{string}{string[1:]}",
        f"{head}{string}{tail}",
        f"{head}{ZERO_WIDTH_SPACE}{tail}",
        f"{head} {tail}",
        f"{head}\x00{tail}",
        string.swapcase(),
        string.replace("<", "\uff1c").replace("|", "\uff5c"),
    ]
    return "".join(forms)


def attacks(strings: Sequence[str], length: int) -> list[list[str]]:
    """Contents for conversations of so many turns: each special string as a whole content and inside of one.

    The latter ends with the string's beginning and begins with its end, for what stands beside to complete.
    """
    contents = []
    for number, string in enumerate(strings):
        cut = (1, len(string) // 2, len(string) - 1)[number % 3]
        contents += [string, f"{string[cut:]} {disguised(string)} {string[:cut]}"]
    starts = range(0, len(contents), length)
    return [list(islice(cycle(contents), start, start + length)) for start in starts]


# ---- the corpus ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _corpus() -> Iterator[None]:
    if not FOLDER.is_dir():
        pytest.fail(f"{FOLDER} is not there: ./build/test fetches it before the tests")
    yield
    for cached in (chat, markup_ids, benign_markup):
        cached.cache_clear()
    close()


def test_the_corpus_is_the_one_that_is_known_here() -> None:
    """A new vocabulary or template is to be given its place above, and none may be lost unnoticed."""
    assert vocabulary_names() == VOCABULARIES
    assert set(template_names()) == set(FAMILY)


@pytest.mark.parametrize("template", FAMILY)
def test_a_template_refuses_what_is_known_and_nothing_else(template: str) -> None:
    """Every one compiles, and takes every conversation of which the table above does not say why not."""
    refused = {}
    for shape, roles in SHAPES.items():
        try:
            tokenize(template, "llama-spm", roles, ["hello"] * len(roles))
        except BadRequest as error:
            refused[shape] = str(error)
    known = REFUSED.get(template, {})
    assert refused.keys() == known.keys()
    assert all(reason in refused[shape] for shape, reason in known.items())


# ---- hostile contents add nothing ------------------------------------------------------------------------


@pytest.mark.parametrize(("template", "name"), PAIRS)
def test_no_content_adds_markup_to_a_template(template: str, name: str) -> None:
    """Its own markup, the vocabulary's, and halves of both leave the prompt's markup as it is, in order."""
    specials = vocabulary(name).specials
    own = [string for string in markup_in(template_source(template)) if string in specials]
    others = [string for string in specials if is_markup(string) and string not in own]
    strings = [*own, *others[:3], *others[-3:]]
    for roles in shapes(template)[-1:]:
        for contents in attacks(strings, len(roles)):
            check_hostile(template, name, roles, contents)
    for roles in shapes(template)[:-1]:
        for first in (0, len(strings) // 2):
            check_hostile(template, name, roles, list(islice(cycle(strings), first, first + len(roles))))


@pytest.mark.parametrize("template", OURS)
@pytest.mark.parametrize("name", VOCABULARIES)
def test_no_special_string_of_a_vocabulary_gets_through(name: str, template: str) -> None:
    """All of them, whole and cut, with and without something around."""
    strings = [string for string in vocabulary(name).specials if is_markup(string)]
    joined = ["".join(strings), "".join(f" {string}x" for string in strings)]
    hidden = ["".join(f"{string[:-1]}{string}{string[1:]}" for string in strings)]
    for content in [*joined, *hidden, "".join(map(disguised, strings[:50]))]:
        check_hostile(template, name, ("user",), [content])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_mixture_of_markup_gets_through(data: st.DataObject) -> None:
    """Pieces of special strings, white space and words, in any order, in every turn."""
    template, name = data.draw(st.sampled_from([pair for pair in PAIRS if shapes(pair[0])]))
    specials = [string for string in vocabulary(name).specials if is_markup(string)]
    whole = st.sampled_from(markup_in(template_source(template)) + specials[:20])
    cut = st.builds(lambda string, at: string[at:] if at > 0 else string[:at], whole, st.integers(-4, 4))
    between = st.sampled_from(["", " ", "\n", "user", "x", "\u3000", ZERO_WIDTH_SPACE, "\x00", "<", ">", "|"])
    roles = data.draw(st.sampled_from(shapes(template)))
    content = st.lists(st.one_of(whole, cut, between), min_size=1, max_size=8).map("".join).filter(str.strip)
    contents = data.draw(st.lists(content, min_size=len(roles), max_size=len(roles)))
    check_hostile(template, name, roles, contents)


# ---- benign contents lose nothing ------------------------------------------------------------------------

BENIGN = (
    "What is it?",
    " The valve is at 21\u00b0C,\n\n  it drips.\n",
    "def f(a):\n    if a < 3 or a > 5 | 1:\n        return [a, '<b>']\n\n\t# \u00e9\u4e2d \U0001f999\n",
    "\n{{ 7 * 7 }} {% raw %} \\n %s ",
)
# It replaces empty lines inside of contents, so where these have any, '<' and '>' get zero-width spaces.
REWRITES = "llama-cpp-rwkv-world"


@pytest.mark.parametrize(("template", "name"), PAIRS)
def test_a_benign_prompt_is_tokenised_as_llama_tokenises_the_whole(template: str, name: str) -> None:
    """Not one token differs, whatever the template trims."""
    chat_template = chat(template, name)
    conversations = [(roles, 0) for roles in shapes(template)]
    # In the longest, each content in each turn.
    conversations += [(roles, first) for roles, _ in conversations[-1:] for first in range(1, len(BENIGN))]
    for roles, first in conversations:
        said = messages(roles, islice(cycle(BENIGN), first, None))
        rendered = chat_template._render(said, [message.content for message in said])
        direct = chat_template._with_bos(vocabulary(name).tokenize(rendered, parse_special=True))
        assert chat_template.tokenize(said) == direct or template == REWRITES, said


# It puts the system prompt into the last turn, so that after an answer there is nothing in common.
LAST_TURN = "mistralai-Mistral-Nemo-Instruct-2407"


@pytest.mark.parametrize(("template", "name"), dict(reversed(PAIRS)).items())
def test_the_public_prefix_is_what_prompts_share_and_holds_no_client_s_word(template: str, name: str) -> None:
    """Two clients' prompts begin with it and part right behind it."""
    for roles in shapes(template):
        system = ["Look after the plants."] if roles[0] == "system" else []
        first = messages(roles, [*system, "Are the tomatoes ripe?", "Yes.", "All of them?"])
        second = messages(roles, [*system, "Water the beans <now>", "No.", "<|im_end|>"])
        prefix = chat(template, name).public_prefix(first)
        assert prefix == chat(template, name).public_prefix(second)
        tokens = [chat(template, name).tokenize(each) for each in (first, second)]
        if len(roles) <= 2:
            assert common_length(*tokens) == len(prefix)
        assert all(each[: len(prefix)] == prefix for each in tokens) or template == LAST_TURN


# ---- words without an end ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_word_of_any_length_does_not_end_the_process(name: str) -> None:
    """A device may send 64 KiB of one kind of character by default; 26,000 were too many for five of them."""
    for characters in ("x", "1", ".", " ", "\u4e2d", "\u3000 ", "\x1c!", ".\n"):
        vocabulary(name).tokenize(characters * (30000 // len(characters)))


@pytest.mark.parametrize("num_before", [4085, 4090, 4095, 4096])
def test_markup_of_the_template_behind_a_long_word_stays_whole(num_before: int) -> None:
    """A content cannot push the template's own tokens onto the place where a long word is cut."""
    roles, template = ("user",), "Qwen-Qwen3-0.6B"
    for name in FOR_ALL:
        check_hostile(template, name, roles, ["x" * num_before])
    tokenizer = vocabulary("qwen2+")
    (think,) = tokenizer.tokenize("<think>")
    assert think in tokenizer.tokenize("x" * num_before + "<think>")
