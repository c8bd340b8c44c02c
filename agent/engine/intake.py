"""The reader thread: messages from the daemon become work for the engine thread.

Rendering, tokenising and every check that needs the vocabulary happen here, beside the running
steps and before the door: what fails here costs nobody a step.
"""

import logging

from agent.engine.backend import Backend
from agent.engine.chat_template import ChatTemplate
from agent.engine.engine import Engine, Rejected, Stop
from agent.engine.messages import Cancel, Pipe, Submit
from agent.engine.prefix import common_length
from agent.engine.prompt import Prompt
from agent.errors import BadRequest, ContextOverflow, EngineProtocolError, RequestError
from agent.request import Failed

log = logging.getLogger(__name__)


class Intake:
    """Feeds one engine from one pipe until the daemon closes it."""

    def __init__(self, pipe: Pipe, engine: Engine, backend: Backend) -> None:
        """Raises ModelUnavailable when the model's chat template is unusable."""
        self._pipe = pipe
        self._engine = engine
        self._num_cells = backend.num_cells
        self._template = ChatTemplate(backend.tokenizer)

    def run(self) -> None:
        """Read until the end of the pipe, then stop the engine."""
        try:
            while (message := self._pipe.receive()) is not None:
                self._take(message)
        except (OSError, EngineProtocolError) as error:
            log.error("the pipe to the daemon broke: %s", error)
        finally:
            self._engine.inbox.put(Stop())

    def _take(self, message: object) -> None:
        match message:
            case Submit():
                self._engine.inbox.put(self._prepare(message))
            case Cancel():
                self._engine.inbox.put(message)
            case _:
                raise EngineProtocolError(f"unexpected {type(message).__name__} after the model was loaded")

    def _prepare(self, submit: Submit) -> Prompt | Rejected:
        try:
            tokens = self._template.tokenize(submit.request.messages)
            self._check_fit(len(tokens))
            num_public = common_length(tokens, self._template.public_prefix(submit.request.messages))
        except RequestError as error:
            return Rejected(submit.key, Failed(code=error.code, message=error.message, detail=error.detail))
        except Exception as error:
            log.exception("request %d could not be tokenised", submit.key)
            message = f"the prompt could not be tokenised ({type(error).__name__})"
            return Rejected(submit.key, Failed(code="internal", message=message))
        return Prompt(submit.key, submit.request, tokens, submit.resume, num_public)

    def _check_fit(self, num_prompt: int) -> None:
        if num_prompt == 0:
            raise BadRequest("the prompt is empty: there is nothing to continue")
        if num_prompt >= self._num_cells:
            raise ContextOverflow(
                f"the prompt has {num_prompt} tokens and the context {self._num_cells}; shorten the prompt",
                n_prompt=num_prompt,
                n_ctx=self._num_cells,
            )
