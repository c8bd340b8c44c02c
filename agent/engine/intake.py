"""The reader thread: messages from the daemon become work for the engine thread.

Rendering, tokenising, reading schemas and every check that needs the vocabulary happen here,
beside the running steps and before the door: what fails here costs nobody a step.
"""

import logging

from agent.engine.chat_template import ChatTemplate
from agent.engine.conversation import fit
from agent.engine.engine import Engine, Rejected, Stop
from agent.engine.messages import Cancel, Pipe, Pressure, Submit
from agent.engine.prefix import common_length
from agent.engine.prompt import Prompt
from agent.errors import BadRequest, EngineProtocolError, RequestError
from agent.request import Failed

log = logging.getLogger(__name__)


class Intake:
    """Feeds one engine from one pipe until the daemon closes it."""

    def __init__(self, pipe: Pipe, engine: Engine, template: ChatTemplate, n_ctx: int) -> None:
        """`n_ctx` is the most tokens one conversation can have, its answer included."""
        self._pipe = pipe
        self._engine = engine
        self._n_ctx = n_ctx
        self._template = template

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
            case Cancel() | Pressure():
                self._engine.inbox.put(message)
            case _:
                raise EngineProtocolError(f"unexpected {type(message).__name__} after the model was loaded")

    def _prepare(self, submit: Submit) -> Prompt | Rejected:
        request = submit.request
        try:
            fitted = fit(request.messages, self._template.tokenize, self._n_ctx, request.max_tokens)
            if not fitted.tokens:
                raise BadRequest("the prompt is empty: there is nothing to continue")
            public = self._template.public_prefix(fitted.messages)
            grammar = _grammar(request.schema)
        except RequestError as error:
            return Rejected(submit.key, Failed(code=error.code, message=error.message, detail=error.detail))
        except Exception as error:
            log.exception("request %d could not be tokenised", submit.key)
            message = f"the prompt could not be tokenised ({type(error).__name__})"
            return Rejected(submit.key, Failed(code="internal", message=message))
        return Prompt(
            key=submit.key,
            request=request,
            tokens=fitted.tokens,
            resume=submit.resume,
            num_public=common_length(fitted.tokens, public),
            history=fitted.history,
            num_history_turns=fitted.num_turns,
            trimmed=fitted.trimmed,
            grammar=grammar,
        )


def _grammar(schema: str | None) -> str | None:
    """The grammar of a request's schema. Raises BadRequest."""
    if schema is None:
        return None
    # Imported with the first schema: most boxes never see one.
    from agent.engine.schema import to_grammar

    return to_grammar(schema)
