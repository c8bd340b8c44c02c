"""A strict reader of Prometheus's text format 0.0.4: it refuses what `promtool check metrics` refuses."""

import re
from dataclasses import dataclass, field

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
HELP = re.compile(rf"# HELP ({NAME}) ((?:[^\\\n]|\\[\\n])+)")
TYPE = re.compile(rf"# TYPE ({NAME}) (counter|gauge)")
# As Go's ParseFloat takes them.
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|NaN")
# promtool's lint: base units, and no type in the name.
NO_UNITS = ("_ms", "_milliseconds", "_kilobytes", "_megabytes", "_percent", "_gauge", "_counter")


@dataclass
class Read:
    """One family; samples by their labels."""

    kind: str
    help: str
    samples: dict[frozenset[tuple[str, str]], float] = field(default_factory=dict)


def parse(text: str) -> dict[str, Read]:
    """The families by name. An AssertionError names the first line that is wrong."""
    assert text == "" or text.endswith("\n"), "the last line has no end"
    families: dict[str, Read] = {}
    lines = iter(text.split("\n")[:-1])
    name = ""
    for line in lines:
        if line.startswith("#"):
            about = HELP.fullmatch(line)
            assert about, line
            name, kind = about[1], TYPE.fullmatch(next(lines))
            assert kind, line
            assert kind[1] == name, line
            assert name not in families, f"{name} is there twice"
            _lint(name, kind[2], about[2])
            families[name] = Read(kind[2], about[2])
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        assert sample[1] == name, f"{line} stands among those of {name}"
        labels = _labels(sample[2] or "")
        assert NUMBER.fullmatch(sample[3]), line
        assert labels not in families[name].samples, f"{line} is there twice"
        families[name].samples[labels] = float(sample[3])
    return families


def _labels(text: str) -> frozenset[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    while text:
        found = LABEL.match(text)
        assert found, text
        pairs.append((found[1], found[2]))
        text = text[found.end() :]
        assert not text or text.startswith(","), text
        text = text[1:]
    assert len({name for name, _ in pairs}) == len(pairs), pairs
    return frozenset(pairs)


def _lint(name: str, kind: str, about: str) -> None:
    assert (kind == "counter") == name.endswith("_total"), f"{name} is a {kind}"
    assert not name.removesuffix("_total").endswith(NO_UNITS), name
    assert about.strip(), f"{name} has no help"
