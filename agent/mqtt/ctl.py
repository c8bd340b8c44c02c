"""Operators' questions: what each verb answers, and who may ask it. Nothing of topics or connections."""

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from msgspec import Struct

from agent.errors import BadRequest, Forbidden, NotFound
from agent.findings import Finding, Severity
from agent.model_list import ModelHere
from agent.mqtt.ctl_answers import (
    ChosenAnswer,
    DoctorAnswer,
    LogAnswer,
    ModelsAnswer,
    shortened,
    whole,
)
from agent.mqtt.frames import HealthPayload, encode
from agent.mqtt.payloads import CtlPayload
from agent.status import ModelIdentity

READ_VERBS = ("info", "health", "models", "doctor", "log")
WRITE_VERBS = ("select", "reload")


class Box(Protocol):
    """What the daemon does for an operator (agent/operations.py). Each may end in a RequestError."""

    async def models(self) -> tuple[ModelHere, ...]:
        """The model files that are here."""

    async def examine(self) -> tuple[Finding, ...]:
        """What is to be mended, the worst first."""

    def log(self, num_lines: int) -> tuple[str, ...]:
        """The last lines, oldest first."""

    async def select(self, name: str, variant: str) -> ModelIdentity:
        """Run that model until the daemon ends."""

    async def reload(self) -> ModelIdentity:
        """Choose again, and load."""


class Operator:
    """`allowed` is `mqtt.operators`; `info` gives the bytes that are retained, `health` a fresh payload."""

    def __init__(
        self,
        allowed: Literal["none", "read", "write"],
        box: Box,
        info: Callable[[], bytes],
        health: Callable[[], Awaitable[HealthPayload]],
    ) -> None:
        self._allowed = allowed
        self._box = box
        self._info = info
        self._health = health

    async def answer(self, verb: str, payload: CtlPayload, max_bytes: int) -> bytes:
        """The JSON of the answer, `max_bytes` at most: lists are cut and say how much was left out.

        Raises the RequestError that is the answer instead: Forbidden, NotFound for a verb there is not,
        BadRequest, Busy while the same is under way, and what choosing a model ends in.
        """
        self._check(verb)
        match verb:
            case "info":
                return whole(self._info(), max_bytes)
            case "health":
                return whole(encode(await self._health()), max_bytes)
            case "models":
                return _models(await self._box.models(), max_bytes)
            case "doctor":
                return _doctor(await self._box.examine(), max_bytes)
            case "log":
                return _log(self._box.log(payload.lines), max_bytes)
            case "select":
                return _chosen(await self._select(payload), max_bytes)
            case _:
                return _chosen(await self._box.reload(), max_bytes)

    def _check(self, verb: str) -> None:
        if self._allowed == "none":
            raise Forbidden(
                "this box answers no operators; mqtt.operators: read or write in its configuration"
            )
        if verb not in READ_VERBS + WRITE_VERBS:
            raise NotFound(f"there is no verb {verb!r}; ask one of: {', '.join(READ_VERBS + WRITE_VERBS)}")
        if verb in WRITE_VERBS and self._allowed != "write":
            raise Forbidden(f"{verb} changes what runs here; it takes mqtt.operators: write on this box")

    async def _select(self, payload: CtlPayload) -> ModelIdentity:
        if not payload.name:
            raise BadRequest('select takes {"name":"..."}, and a "variant" if you like; models has the names')
        return await self._box.select(payload.name, payload.variant or "auto")


def _models(models: tuple[ModelHere, ...], max_bytes: int) -> bytes:
    def first(n: int) -> Struct:
        return ModelsAnswer(ranked[:n], len(ranked) - n)

    # What runs is the last to be left out.
    ranked = tuple(sorted(models, key=lambda model: not model.is_chosen))
    return shortened(first, len(ranked), max_bytes)


def _doctor(findings: tuple[Finding, ...], max_bytes: int) -> bytes:
    severities = [finding.severity for finding in findings]
    num_errors, num_warnings = severities.count(Severity.ERROR), severities.count(Severity.WARNING)

    def first(n: int) -> Struct:
        return DoctorAnswer(findings[:n], num_errors, num_warnings, len(findings) - n)

    return shortened(first, len(findings), max_bytes)


def _log(lines: tuple[str, ...], max_bytes: int) -> bytes:
    def last(n: int) -> Struct:
        return LogAnswer(lines[len(lines) - n :], len(lines) - n)

    return shortened(last, len(lines), max_bytes)


def _chosen(model: ModelIdentity, max_bytes: int) -> bytes:
    def first(n: int) -> Struct:
        return ChosenAnswer(model.name, model.quant, model.runs, model.why[:n], len(model.why) - n)

    return shortened(first, len(model.why), max_bytes)
