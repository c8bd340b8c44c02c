"""One engine process's memory with a model open, its context made and both kinds of step computed.

`python prediction_child.py` reads a messages.Load in JSON and prints Taken in JSON.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from agent.engine import llama
from agent.engine.batch import Batch
from agent.engine.chat_template import ChatTemplate
from agent.engine.intake import Intake  # noqa: F401 - what the engine process has in memory
from agent.engine.messages import Forecast, Load

ROLLUP = Path("/proc/self/smaps_rollup")


class Taken(msgspec.Struct, frozen=True):
    """Bytes: memory that is the process's own, and pages of files it has mapped."""

    anonymous_bytes: int
    file_bytes: int
    forecast: Forecast


def main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    llama.initialise()
    backend = llama.LlamaBackend(load)
    ChatTemplate(backend.tokenizer)
    forecast = backend.forecast
    backend.resize(load.n_ctx)
    rows = load.n_batch
    last = [False] * (rows - 1) + [True]
    backend.decode(Batch(tokens=[1] * rows, positions=list(range(rows)), slots=[0] * rows, outputs=last))
    for position in range(rows, rows + 4):
        backend.decode(Batch(tokens=[1], positions=[position], slots=[0], outputs=[True]))
    anonymous, resident = _now()
    print(msgspec.json.encode(Taken(anonymous, resident - anonymous, forecast)).decode())


def _now() -> tuple[int, int]:
    lines = ROLLUP.read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    return sizes["Anonymous"], sizes["Rss"]


if __name__ == "__main__":
    main()
