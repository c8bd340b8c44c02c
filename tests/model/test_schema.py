"""Answers held to a schema by the real model, drawn greedily, hot and with penalties."""

import json
import time
from typing import Any

import pytest

from agent.engine.batch import Batch
from agent.engine.chat_template import ChatTemplate
from agent.engine.llama import LlamaBackend
from agent.engine.schema import to_grammar
from agent.errors import BadRequest, Internal
from agent.request import Failed, Finished, FinishReason, Message, Sampling
from tests.support.engine_driver import GREEDY, Answer, EngineDriver
from tests.support.json_schema import satisfies

HOT = Sampling(seed=3, temperature=1.5, top_p=1.0, top_k=0)
USUAL = Sampling(seed=4, temperature=0.8)
PENALISED = Sampling(
    seed=5, temperature=0.9, min_p=0.05, repeat_penalty=1.2, presence_penalty=0.4, frequency_penalty=0.4
)
SAMPLINGS = {
    "greedy": GREEDY,
    "hot": HOT,
    "usual": USUAL,
    "penalised": PENALISED,
    "greedy and penalised": Sampling(seed=0, temperature=0.0, repeat_penalty=1.3, presence_penalty=0.5),
}
READING = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "minLength": 1, "maxLength": 20},
        "celsius": {"type": "number", "minimum": -40, "maximum": 60},
        "alarms": {"type": "array", "items": {"enum": ["hot", "cold", "dry"]}, "maxItems": 2},
        "day": {"type": "string", "format": "date"},
        "note": {"anyOf": [{"type": "string", "maxLength": 15}, {"type": "null"}]},
    },
    "required": ["place", "celsius", "alarms", "day", "note"],
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 8},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1},
            },
            "required": ["name"],
        }
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "reading": READING,
    "tree": TREE,
    "choice": {"enum": ["yes", "no", "\u20ac\U0001f999", "<|im_start|>"]},
    "integer": {"type": "integer", "minimum": 100, "maximum": 999},
    "list": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    "map": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "text": {"type": "string", "minLength": 5, "maxLength": 30},
}
QUESTION = "The greenhouse is at 31 degrees. Describe it as JSON."


def answer(
    backend: LlamaBackend, schema: Any, sampling: Sampling, max_tokens: int = 120, **options: Any
) -> Answer:
    grammar = None if schema is None else to_grammar(json.dumps(schema))
    driver = EngineDriver(backend)
    tokens = ChatTemplate(backend.tokenizer).tokenize([Message("user", QUESTION)])
    driver.submit(1, tokens, sampling=sampling, grammar=grammar, max_tokens=max_tokens, **options)
    driver.run()
    driver.engine._kv.drop_cached()
    return driver.answers[1]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_satisfies_its_schema(backend: LlamaBackend, name: str, sampling: str) -> None:
    """However it is drawn. An answer that was cut is at least the beginning of one."""
    schema = SCHEMAS[name]
    said = answer(backend, schema, SAMPLINGS[sampling])
    assert isinstance(said.ending, Finished)
    if said.ending.finish_reason is FinishReason.STOP:
        assert satisfies(json.loads(said.text), schema, schema), said.text
    else:
        assert name in ("tree", "map")


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_resumed_answer_is_the_uninterrupted_one(backend: LlamaBackend, sampling: str) -> None:
    """Both random numbers, the grammar and the penalties stand where they stood."""
    whole = answer(backend, READING, SAMPLINGS[sampling])
    assert whole.deltas[-1].draws > len(whole.tokens) or "greedy" in sampling
    for num_done in (1, len(whole.deltas) // 2, len(whole.deltas) - 1):
        rest = answer(backend, READING, SAMPLINGS[sampling], resume=whole.resume(num_done))
        assert rest.deltas == whole.deltas[num_done:]


@pytest.mark.parametrize("sampling", ["penalised", "greedy and penalised"])
def test_penalties_change_the_answer_and_outlive_the_process(backend: LlamaBackend, sampling: str) -> None:
    """Without a schema: the tokens so far are all they need to know."""
    drawn = SAMPLINGS[sampling]
    whole = answer(backend, None, drawn, max_tokens=40)
    without = Sampling(seed=drawn.seed, temperature=drawn.temperature, min_p=drawn.min_p)
    assert whole.tokens != answer(backend, None, without, max_tokens=40).tokens
    for num_done in (1, 20, 39):
        rest = answer(backend, None, drawn, max_tokens=40, resume=whole.resume(num_done))
        assert rest.deltas == whole.deltas[num_done:]


def test_a_hard_presence_penalty_leaves_no_token_twice(backend: LlamaBackend) -> None:
    """Greedy, too: a repeat penalty beyond any logit."""
    said = answer(backend, None, Sampling(seed=0, temperature=0.0, repeat_penalty=2.0), max_tokens=30)
    assert len(set(said.tokens)) > 25


def test_min_p_of_nearly_one_is_greedy(backend: LlamaBackend) -> None:
    sampling = Sampling(seed=9, temperature=1.0, top_p=1.0, top_k=0, min_p=0.999)
    assert answer(backend, None, sampling, max_tokens=20).tokens == answer(backend, None, GREEDY, 20).tokens


def test_schemas_and_plain_answers_share_a_batch(backend: LlamaBackend) -> None:
    """Each answer is what it is alone."""
    tokens = ChatTemplate(backend.tokenizer).tokenize([Message("user", QUESTION)])
    driver = EngineDriver(backend)
    names = [None, "reading", None, "choice"]
    for key, name in enumerate(names):
        grammar = to_grammar(json.dumps(SCHEMAS[name])) if name else None
        driver.submit(key, tokens, client=str(key), sampling=USUAL, max_tokens=12, grammar=grammar)
    driver.run()
    driver.engine._kv.drop_cached()
    for key, name in enumerate(names):
        alone = answer(backend, SCHEMAS[name] if name else None, USUAL, max_tokens=12)
        assert driver.answers[key].tokens[:4] == alone.tokens[:4]


def test_no_control_token_stands_for_its_name(backend: LlamaBackend) -> None:
    """llama.cpp's grammar takes `<|im_start|>` for text; in an answer it would be none."""
    said = answer(backend, {"const": "<|im_start|>"}, GREEDY)
    assert json.loads(said.text) == "<|im_start|>"


@pytest.mark.parametrize("repeat_penalty", [1e-30, 1e-40])
def test_absurd_penalties_end_one_request_at_most(backend: LlamaBackend, repeat_penalty: float) -> None:
    """Logits become infinite; nothing refused is accepted for it."""
    said = answer(
        backend,
        READING,
        Sampling(seed=1, temperature=2.0, top_p=1.0, top_k=0, repeat_penalty=repeat_penalty),
    )
    if isinstance(said.ending, Failed):
        assert said.ending.code == "bad_request"
    assert isinstance(answer(backend, SCHEMAS["choice"], GREEDY).ending, Finished)


# ---- what must not end the process -------------------------------------------------------------------


@pytest.mark.parametrize(
    "grammar", ["", "root", 'root ::= "a', "root ::= root", "other ::= [a]", 'root ::= missing "x"']
)
def test_a_grammar_llama_does_not_take_is_an_error(backend: LlamaBackend, grammar: str) -> None:
    """NULL, and not the end; `` means no grammar to llama.cpp, which would be worse."""
    with pytest.raises(Internal):
        backend.new_chain(GREEDY, 0, grammar)


def test_tokens_that_do_not_keep_to_the_schema_are_an_error(backend: LlamaBackend) -> None:
    """Accepting them would be an exception that nobody catches, and the end of the process."""
    grammar = to_grammar('{"type": "null"}')
    end = next(token for token in range(50) if backend.tokenizer.is_end(token))
    for tokens in (backend.tokenizer.tokenize("nil"), [end], backend.tokenizer.tokenize("null") + [5] * 3):
        with pytest.raises(Internal, match="does not keep"):
            backend.new_chain(GREEDY, 0, grammar, tokens)
    backend.free_chain(backend.new_chain(GREEDY, 0, grammar, backend.tokenizer.tokenize("null")))


def test_where_no_token_fits_there_is_none(backend: LlamaBackend) -> None:
    """A grammar whose next character is beyond Unicode."""
    rows = Batch(tokens=[5], positions=[0], slots=[0], outputs=[True])
    backend.decode(rows)
    chain = backend.new_chain(GREEDY, 0, r"root ::= [\U00200000]")
    assert backend.resample(chain, 0) is None
    backend.free_chain(chain)
    backend.remove(0, 0)


HOSTILE = [
    {"const": "(" * 15_000},
    {"enum": [f"word{n}" for n in range(450)]},
    {"properties": {str(n): {"type": "boolean"} for n in range(400)}},
    {"items": {"maxLength": 2000}, "maxItems": 2000},
    {"properties": {str(n): {"maxLength": 1990 + n} for n in range(5)}},
    {"anyOf": [{"prefixItems": [{"type": "integer"}, {"const": n}]} for n in range(40)]},
    {"anyOf": [{"minimum": n, "maximum": 10**14 + n} for n in range(8)]},
]


@pytest.mark.parametrize("index", range(len(HOSTILE)))
def test_the_largest_grammars_there_are_stay_quick(backend: LlamaBackend, index: int) -> None:
    """To the limits of what schema.py lets through: parsed in milliseconds, followed in milliseconds."""
    grammar = to_grammar(json.dumps(HOSTILE[index]))
    started = time.thread_time()
    backend.free_chain(backend.new_chain(GREEDY, 0, grammar))
    assert time.thread_time() - started < 0.5
    started = time.thread_time()
    said = answer(backend, HOSTILE[index], HOT, max_tokens=12)
    assert isinstance(said.ending, Finished)
    assert time.thread_time() - started < 12 * 1.0


@pytest.mark.parametrize(
    "schema",
    [
        '{"const":' + "(" * 30_000 + "}",
        '{"items":' * 3_000 + "{}" + "}" * 3_000,
        json.dumps({"maxLength": 10**6, "minLength": 10**6}),
        json.dumps({"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}, "minItems": 1}]}),
    ],
)
def test_what_would_end_the_process_never_reaches_llama(schema: str) -> None:
    with pytest.raises(BadRequest):
        to_grammar(schema)
