"""The engine process: `python -m agent.engine [FOLDER] FD`.

FD is its end of the daemon's socketpair. FOLDER is where it may keep computed profiles; without one
it writes nothing.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from agent.engine.backend import Backend
from agent.engine.engine import Engine, Options
from agent.engine.messages import PROTOCOL, Hello, Load, Loaded, LoadFailed, Measure, MeasureMemory, Pipe
from agent.engine.pool import Pool
from agent.engine.prefix_store import PrefixStore
from agent.engine.sandbox import end_with_parent, restrict
from agent.engine.threads import ThreadGovernor
from agent.errors import EngineProtocolError, RequestError
from agent.request import Message

if TYPE_CHECKING:
    from agent.engine.chat_template import ChatTemplate

log = logging.getLogger("agent.engine")

# When memory ends, the kernel should end this process and not the daemon, which starts it again.
OOM_SCORE_ADJ = "500"


def main() -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)
    end_with_parent()
    # A service manager stops every process of a service; this one ends with the pipe, after the drain.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    *folders, descriptor = sys.argv[1:]
    folder = Path(folders[0]) if folders else None
    sandbox = restrict(folder)
    pipe = Pipe(socket.socket(fileno=int(descriptor)))
    # Imported here: a library built for another CPU dies here by SIGILL, and the daemon, which has
    # not heard Hello, can say so.
    from agent.engine import llama

    llama.initialise()
    pipe.send(
        Hello(
            protocol=PROTOCOL,
            pid=os.getpid(),
            build=llama.build(),
            devices=llama.devices(),
            system=llama.system_info(),
            sandbox=sandbox,
        )
    )
    load = pipe.receive()
    if load is None:
        return 0
    if isinstance(load, Measure | MeasureMemory):
        from agent.engine import measure

        return measure.run(pipe.send, load, llama.LlamaBackend)
    if not isinstance(load, Load):
        raise EngineProtocolError(f"expected Load first, got {type(load).__name__}")
    store = PrefixStore(folder, load, llama.build()) if folder else None
    return serve(pipe, load, llama.LlamaBackend, store)


def serve(
    pipe: Pipe, load: Load, open_backend: Callable[[Load], Backend], store: PrefixStore | None = None
) -> int:
    """Load the model and answer until the daemon closes the pipe."""
    started = time.monotonic()
    try:
        with ThreadPoolExecutor(max_workers=1) as beside:
            opened = beside.submit(open_backend, load)
            # jinja2 is imported while llama.cpp reads.
            from agent.engine.chat_template import ChatTemplate
            from agent.engine.intake import Intake

            backend = opened.result()
        template = ChatTemplate(backend.tokenizer)
        pool = Pool(backend, n_ctx=load.n_ctx, n_ctx_start=load.n_ctx_start, hard_bytes=load.hard_bytes)
        pool.wake()
        engine = Engine(backend, pool, pipe.send, options_for(load, template, store))
        n_ctx = min(pool.max_cells, backend.n_ctx_train)
    except RequestError as error:
        pipe.send(LoadFailed(code=error.code, message=error.message))
        return 1
    pipe.send(
        Loaded(
            description=backend.description,
            n_ctx=n_ctx,
            n_ctx_train=backend.n_ctx_train,
            n_seq_max=load.n_seq_max,
            model_bytes=backend.model_bytes,
            load_s=time.monotonic() - started,
            memory=backend.forecast,
        )
    )
    intake = Intake(pipe, engine, template, n_ctx)
    threading.Thread(target=intake.run, name="intake", daemon=True).start()
    try:
        engine.run()
    except ConnectionError:
        log.info("the daemon is gone")
    return 0


def options_for(load: Load, template: "ChatTemplate", store: PrefixStore | None) -> Options:
    """How the engine is to run this model. A profile the template refuses is left to its requests."""
    prefixes = []
    for system in load.profiles:
        with contextlib.suppress(RequestError):
            prefixes.append(template.public_prefix([Message("system", system)]))
    return Options(
        governor=ThreadGovernor(load.n_threads),
        profiles=tuple(prefixes),
        store=store,
        sleep_after_s=load.idle_context_s,
    )


if __name__ == "__main__":
    sys.exit(main())
