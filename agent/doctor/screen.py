"""The report on one screen of 100 columns: sections of aligned words, then what is to be done."""

import textwrap

from agent.doctor.report import BoxReport
from agent.doctor.sections import Line, sections
from agent.doctor.words import capital, counted, printable, sentence
from agent.findings import Finding, Severity

WIDTH = 100
NAME_CELLS = 9
MARKS = {Severity.ERROR: "ERROR", Severity.WARNING: "WARN", Severity.NOTE: "note"}
MARK_CELLS = 7
# ANSI: bold red, yellow, cyan; bold.
COLOURS = {Severity.ERROR: "1;31", Severity.WARNING: "33", Severity.NOTE: "36"}
BOLD = "1"


def render(report: BoxReport, *, is_coloured: bool = False) -> str:
    """The whole screen."""
    blocks = [_section(title, lines, is_coloured=is_coloured) for title, lines in sections(report)]
    if report.findings:
        blocks.append("\n".join(_finding(finding, is_coloured=is_coloured) for finding in report.findings))
    return "\n\n".join([*blocks, _verdict(report)])


def _section(title: str, lines: list[Line], *, is_coloured: bool) -> str:
    indent = " " * (NAME_CELLS + 4)
    body = [_wrapped(f"  {name:<{NAME_CELLS}}  {printable(value)}", indent) for name, value in lines]
    return "\n".join([_painted(title, BOLD, is_coloured=is_coloured), *body])


def _finding(finding: Finding, *, is_coloured: bool) -> str:
    indent = " " * MARK_CELLS
    mark = MARKS[finding.severity]
    text = _wrapped(f"{mark:<{MARK_CELLS}}{printable(sentence(finding.what))}", indent)
    painted = _painted(mark, COLOURS[finding.severity], is_coloured=is_coloured) + text[len(mark) :]
    if not finding.remedy:
        return painted
    return f"{painted}\n{_wrapped(f'{indent}-> {printable(capital(finding.remedy))}', indent + '   ')}"


def _wrapped(line: str, indent: str) -> str:
    return textwrap.fill(
        line,
        WIDTH,
        subsequent_indent=indent,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )


def _painted(text: str, code: str, *, is_coloured: bool) -> str:
    return f"\033[{code}m{text}\033[0m" if is_coloured else text


def _verdict(report: BoxReport) -> str:
    errors, warnings = report.num_errors, report.num_warnings
    if not errors and not warnings:
        return "All is well."
    return f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
