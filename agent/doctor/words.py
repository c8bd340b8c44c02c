"""Figures and sentences as a person reads them."""

from agent.errors import TampuError
from agent.findings import Finding, Severity

MIB, GIB = 1 << 20, 1 << 30


def size(count: int | None) -> str:
    """Bytes as `512 MiB` or `7.6 GiB`; `?` for what is not known."""
    if count is None:
        return "?"
    return f"{count / MIB:.0f} MiB" if count < GIB else f"{count / GIB:.1f} GiB"


def counted(number: int, word: str) -> str:
    """1 error, 2 errors."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Text that came from elsewhere: it can neither begin a line nor move the terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def parted(text: str) -> tuple[str, str]:
    """Our errors say what is wrong, and after the last `; ` the next step."""
    what, semicolon, step = text.rpartition("; ")
    return (what, step) if semicolon else (text, "")


def capital(text: str) -> str:
    """With its first letter large: our errors begin small, after the command's name.

    A key, a file or a program (`mqtt.tls`, `llama.cpp`) is written as it is.
    """
    first = text.split(maxsplit=1)[0].rstrip(".,:;") if text.strip() else ""
    return text if "." in first or "/" in first or "_" in first else f"{text[:1].upper()}{text[1:]}"


def sentence(text: str) -> str:
    """As it stands on a screen of its own: with a large letter and a full stop."""
    return capital(text) + ("" if text.endswith((".", "!", "?")) else ".")


def finding_of(error: TampuError, severity: Severity, code: str) -> Finding:
    """An error's sentence as a finding."""
    what, step = parted(str(error))
    return Finding(severity, code, sentence(what), capital(step))
