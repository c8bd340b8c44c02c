"""What a look at the box brings up: one value for each thing a person may want to mend."""

from enum import StrEnum

from msgspec import Struct


class Severity(StrEnum):
    """`error`: something will not work. `warning`: it works worse than it could. `note`: good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Finding(Struct, frozen=True):
    """`code` is stable, for programs; `what` and `remedy` are one sentence each, for a person.

    `remedy` is the step that really applies on this box; empty where nothing can be done.
    """

    severity: Severity
    code: str
    what: str
    remedy: str = ""


def by_severity(findings: list[Finding]) -> tuple[Finding, ...]:
    """The worst first; within one severity as they came. The same finding only once."""
    order = list(Severity)
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.severity)))
