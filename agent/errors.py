"""Every error the project raises on purpose, on one page.

    TampuError
    |-- ConfigError                 the configuration is wrong            exit 78
    |-- BrokerError                 the broker cannot be spoken to
    |-- ManifestError               the model manifest is wrong
    |-- ModelFileError              a model file is missing, damaged or cannot be fetched
    |-- ProbeError                  a recording of a box cannot be used, or the box does not answer
    |-- EngineProtocolError         the engine process said something unexpected
    |-- DaemonUnreachable           no daemon answers on the socket       exit 69
    `-- RequestError                a request ends without an answer; has a wire code:
        |-- BadRequest              bad_request          400
        |-- UnsupportedVersion      unsupported_version  400
        |-- BadReplyTopic           bad_reply_topic      400
        |-- Forbidden               forbidden            403
        |-- NotFound                not_found            404
        |-- Expired                 expired              408
        |-- IdConflict              id_conflict          409
        |-- TooLarge                too_large            413
        |-- ContextOverflow         context_overflow     422
        |-- RateLimited             rate_limited         429   the client's own bound
        |-- Cancelled               cancelled            499
        |-- Internal                internal             500
        |-- Busy                    busy                 503   the box's bound
        |-- ModelUnavailable        model_unavailable    503
        |-- InsufficientMemory      insufficient_memory  503
        `-- EngineTimeout           timeout              504

The codes and their numbers are the wire contract: both fronts publish them unchanged. Foreign
exceptions are turned into one of these at the module that calls the foreign code.
"""

from typing import Any, ClassVar


class TampuError(Exception):
    """The root: its text is one sentence a person can act on."""


class ConfigError(TampuError):
    """The configuration is wrong; the text names file, key, value and what is allowed."""


class BrokerError(TampuError):
    """The broker refused or broke the connection."""


class ManifestError(TampuError):
    """The model manifest is wrong; the text names file and key."""


class ModelFileError(TampuError):
    """A model file is missing, damaged or cannot be fetched; the text names the file and the remedy."""


class ProbeError(TampuError):
    """A recording of a box cannot be used; the text names it and what to record."""


class EngineProtocolError(TampuError):
    """The other end of the engine pipe sent what the protocol does not have."""


class DaemonUnreachable(TampuError):
    """No daemon answers on the socket, or it went away in mid-answer; the text names the socket."""


class RequestError(TampuError):
    """One request ends without an answer.

    `retry_after_ms` is set where trying again later helps; `detail` holds the facts behind the
    sentence (numbers, names) as JSON values.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_ms: int | None = None, **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.detail = detail


class BadRequest(RequestError):
    code, status = "bad_request", 400


class UnsupportedVersion(RequestError):
    code, status = "unsupported_version", 400


class BadReplyTopic(RequestError):
    code, status = "bad_reply_topic", 400


class Forbidden(RequestError):
    code, status = "forbidden", 403


class NotFound(RequestError):
    code, status = "not_found", 404


class Expired(RequestError):
    code, status, retryable = "expired", 408, True


class IdConflict(RequestError):
    code, status = "id_conflict", 409


class TooLarge(RequestError):
    code, status = "too_large", 413


class ContextOverflow(RequestError):
    code, status = "context_overflow", 422


class RateLimited(RequestError):
    code, status, retryable = "rate_limited", 429, True


class Cancelled(RequestError):
    code, status = "cancelled", 499


class Internal(RequestError):
    code, status = "internal", 500


class Busy(RequestError):
    code, status, retryable = "busy", 503, True


class ModelUnavailable(RequestError):
    code, status, retryable = "model_unavailable", 503, True


class InsufficientMemory(RequestError):
    code, status, retryable = "insufficient_memory", 503, True


class EngineTimeout(RequestError):
    code, status, retryable = "timeout", 504, True


BY_CODE: dict[str, type[RequestError]] = {leaf.code: leaf for leaf in RequestError.__subclasses__()}


def from_code(code: str, message: str, detail: dict[str, Any] | None = None) -> RequestError:
    """The leaf for a wire code; an unknown code becomes `Internal`."""
    return BY_CODE.get(code, Internal)(message, **(detail or {}))
