"""Prometheus's text exposition format, version 0.0.4: families of samples, written out.

See prometheus.io/docs/instrumenting/exposition_formats.
"""

import math
import re
from typing import Literal

from msgspec import Struct

METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Kind = Literal["counter", "gauge"]


class Sample(Struct, frozen=True):
    """One number, and the labels that tell it from the others of its family."""

    value: float
    labels: tuple[tuple[str, str], ...] = ()


class Family(Struct, frozen=True):
    """The samples of one name. A counter's name ends in `_total`; without samples it is left out."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


def render(families: tuple[Family, ...]) -> str:
    """The text, each family under its HELP and TYPE lines."""
    return "".join(_family(family) for family in families if family.samples)


def _family(family: Family) -> str:
    assert METRIC.fullmatch(family.name), family.name
    lines = [f"# HELP {family.name} {_escaped(family.help)}", f"# TYPE {family.name} {family.kind}"]
    lines += [f"{family.name}{_labels(sample)} {_number(sample.value)}" for sample in family.samples]
    return "\n".join(lines) + "\n"


def _labels(sample: Sample) -> str:
    if not sample.labels:
        return ""
    assert all(LABEL.fullmatch(name) for name, _ in sample.labels), sample.labels
    pairs = [
        f'{name}="{_escaped(value).replace(chr(34), chr(92) + chr(34))}"' for name, value in sample.labels
    ]
    return "{" + ",".join(pairs) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    """As Go's ParseFloat reads it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(float(value))
