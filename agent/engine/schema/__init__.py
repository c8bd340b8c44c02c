"""JSON schema to grammar: what a request's `schema` allows an answer to be.

    schema text -> nodes (schema_reader.py) -> widths, ends (schema_nodes.py) -> GBNF (gbnf.py)

The grammar writes nothing the schema forbids (but `oneOf` is read as `anyOf`), and not all that it
allows: properties come in their declared order, objects with `properties` get no others (as if
`additionalProperties` were false), after `prefixItems` come others only where `items` is given,
numbers have at most 15 digits before the point, what is of free shape nests 4 deep, strings have no
\\u escapes. A keyword that is not supported and would change the meaning is refused by name;
annotations are ignored. Nothing is ever fetched: references stay within the schema.

Schemas come from anyone: text, depth, nodes, repetitions, readings (schema_nodes.py) and the grammar
are bounded, and every refusal is a BadRequest that names the place.
"""

from typing import Any

import msgspec

from agent.engine.schema.gbnf import write_grammar
from agent.engine.schema.nodes import Shapes
from agent.engine.schema.reader import ROOT, Reader
from agent.errors import BadRequest

MAX_TEXT_BYTES = 16 << 10
# Objects and lists inside each other; a property costs two.
MAX_DEPTH = 64


def to_grammar(text: str) -> str:
    """The GBNF grammar, start rule `root`, of the JSON schema in a JSON text. Raises BadRequest."""
    reader = Reader(_decode(text))
    root = reader.read_all()
    shapes = Shapes(reader.targets)
    if not shapes.ends(root):
        raise BadRequest(f"{ROOT}: every answer would have to go on for ever; make something optional")
    return write_grammar(root, shapes)


def _decode(text: str) -> Any:
    try:
        data = text.encode()
        if len(data) > MAX_TEXT_BYTES:
            raise BadRequest(f"{ROOT}: has {len(data)} bytes; at most {MAX_TEXT_BYTES} are taken")
        tree = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise BadRequest(f"{ROOT}: is not JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest(f"{ROOT}: is nested too deeply") from error
    _check_depth(tree)
    return tree


def _check_depth(tree: Any) -> None:
    level = [tree]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
        if not level:
            return
    raise BadRequest(f"{ROOT}: is nested more than {MAX_DEPTH} deep")
