"""The engine process: `python -m agent.engine FD`, FD being its end of the daemon's socketpair."""

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agent.engine.backend import Backend
from agent.engine.engine import Engine
from agent.engine.intake import Intake
from agent.engine.messages import PROTOCOL, Hello, Load, Loaded, LoadFailed, Pipe
from agent.engine.sandbox import end_with_parent, restrict
from agent.engine.threads import ThreadGovernor
from agent.errors import EngineProtocolError, RequestError

log = logging.getLogger("agent.engine")

# When memory ends, the kernel should end this process and not the daemon, which starts it again.
OOM_SCORE_ADJ = "500"


def main() -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)
    end_with_parent()
    sandbox = restrict()
    pipe = Pipe(socket.socket(fileno=int(sys.argv[1])))
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
    if not isinstance(load, Load):
        raise EngineProtocolError(f"expected Load first, got {type(load).__name__}")
    return serve(pipe, load, llama.LlamaBackend)


def serve(pipe: Pipe, load: Load, open_backend: Callable[[Load], Backend]) -> int:
    """Load the model and answer until the daemon closes the pipe."""
    started = time.monotonic()
    try:
        backend = open_backend(load)
        engine = Engine(backend, pipe.send, ThreadGovernor(load.n_threads))
        intake = Intake(pipe, engine, backend)
    except RequestError as error:
        pipe.send(LoadFailed(code=error.code, message=error.message))
        return 1
    pipe.send(
        Loaded(
            description=backend.description,
            n_ctx=backend.num_cells,
            n_ctx_train=backend.n_ctx_train,
            n_seq_max=backend.num_slots,
            model_bytes=backend.model_bytes,
            load_s=time.monotonic() - started,
        )
    )
    threading.Thread(target=intake.run, name="intake", daemon=True).start()
    try:
        engine.run()
    except ConnectionError:
        log.info("the daemon is gone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
