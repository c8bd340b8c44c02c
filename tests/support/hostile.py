"""Near-valid requests: the JSON text of a good one in which a few things are as no program writes them.

As text and not as values: half of what is hostile (1e400, lone surrogates, keys that come twice, thousands of
digits) no JSON library would produce.
"""

from hypothesis import strategies as st

GOOD = {
    "v": "1",
    "id": '"r-1"',
    "prompt": '"Is 31 C too warm for lettuce?"',
    "messages": '[{"role":"system","content":"Be brief."},{"role":"user","content":"hi"}]',
    "profile": '"greenhouse"',
    "system": '"Be brief."',
    "session": '"kitchen"',
    "supersede": "true",
    "stream": "false",
    "max_tokens": "64",
    "temperature": "0.2",
    "top_p": "0.9",
    "top_k": "40",
    "min_p": "0.1",
    "repeat_penalty": "1.1",
    "presence_penalty": "-0.5",
    "frequency_penalty": "0.5",
    "seed": "1",
    "stop": '["\\n\\n"]',
    "schema": '{"type":"object","properties":{"a":{"type":"integer"}}}',
    "ttl_s": "60",
    "sent_at": "1790000000.5",
    "priority": "0",
    "reply_to": '"tampu/v1/box/response/me/x"',
    "reply_qos": "1",
    "max_frame": "4096",
    "format": '"json"',
    "all": "false",
    "lines": "10",
    "name": '"m"',
    "variant": '"Q4_K_M"',
}
EVIL = (
    *("null", "true", "false", "0", "-0", "-1", "1.5", "-0.0", "1e400", "-1e400", "1e-400", "1e308", "NaN"),
    *("Infinity", "-Infinity", "0x10", "01", "1.", ".5", "+1", "1" * 400, "9" * 5000, "-" + "9" * 30, "1E5"),
    *(
        '""',
        '" "',
        '"\\u0000"',
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud83e\\udd99"',
        '"\\uffff"',
        '"\\ufeff"',
    ),
    *('"' + "x" * 20_000 + '"', '"' + "\\n" * 500 + '"', '"\\u202e\\u001b[2J"', '"..\'`$.messages[0]`"'),
    *('"a/b"', '"+"', '"#"', '".."', '"text"', '"user"', '"\\q"', '"\x00"', '"unterminated'),
    *("[]", "{}", "[[]]", "[null]", '[""]', '["a"' + ',"a"' * 20 + "]", '{"":{}}', '{"a` - at `$.id`":1}'),
    *("[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, "[" * 20_000, '{"a":' * 9000, "1,2", "}", ""),
    *('[{"role":"user"}]', '[{"role":"wizard","content":"x"}]', '[{"role":"user","content":"x","y":1}]'),
    *(
        '[{"role":"user","content":"x","a` - at `$.seed`":1}]',
        '[{"role":[],"content":{}}]',
        '[{"content":5}]',
    ),
    *('[{"role":"user","content":"x"},' * 300 + "{}" + "]", '{"$ref":"#"}', '{"type":"object","type":5}'),
)

_pairs = st.lists(
    st.tuples(st.sampled_from([*GOOD, "id", "prompt", "messages"]), st.booleans(), st.sampled_from(EVIL)),
    min_size=1,
    max_size=8,
)


def _written(pairs: list[tuple[str, bool, str]], has_prompt: bool) -> bytes:
    fields = [(name, evil if is_evil else GOOD[name]) for name, is_evil, evil in pairs]
    if has_prompt:
        fields.append(("prompt", GOOD["prompt"]))
    return ("{" + ",".join(f'"{name}":{value}' for name, value in fields) + "}").encode()


def _cut(payload: bytes, at: int, noise: bytes, where: int) -> bytes:
    """Bytes lost at the end, and others put in between."""
    payload = payload[: len(payload) - at % len(payload)] if at else payload
    where %= len(payload) + 1
    return payload[:where] + noise + payload[where:]


near_valid = st.builds(_written, _pairs, st.booleans())
damaged = st.builds(
    _cut,
    near_valid,
    st.sampled_from([0, 0, 1, 7]) | st.integers(0, 500),
    st.binary(max_size=3),
    st.integers(0),
)
payloads = near_valid | damaged | st.binary(max_size=200) | st.sampled_from(EVIL).map(str.encode)
"""What a device may send to any topic of ours."""


def some(every: int) -> list[bytes]:
    """Each `every`-th of all good requests with one evil value, always the same ones."""
    whole = [_written([(name, True, evil)], name != "prompt") for evil in EVIL for name in GOOD]
    return whole[::every]
