"""The `tampu` command: options before the verb, the verb, and what its errors mean as exit codes."""

import argparse
import errno
import importlib
import io
import os
import sys
from typing import Final

from agent import __version__
from agent.errors import Busy, ConfigError, DaemonUnreachable, RateLimited, TampuError

VERBS: Final = ("run", "demo", "ask", "status", "doctor", "models", "config", "bench", "report")

# sysexits.h where it has a word; a shell's 128 + signal for Ctrl-C.
EXIT_FAILED: Final = 1
EXIT_UNREACHABLE: Final = 69
EXIT_BUSY: Final = 75
EXIT_CONFIG: Final = 78
EXIT_INTERRUPTED: Final = 130

EPILOG = """\
examples:
  tampu run
  tampu ask "Why do leaves turn yellow?"
  tampu --set mqtt.host=192.168.1.10 run
"""


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns its exit code; usage errors and --help leave by SystemExit, as argparse does."""
    args = _parse(sys.argv[1:] if argv is None else argv)
    _print_what_can_be_printed()
    try:
        code: int = args.func(args)
        sys.stdout.flush()
        return code
    except TampuError as error:
        print(f"tampu: {error}", file=sys.stderr)
        return _exit_code(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_FAILED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _drop_output()
        print("tampu: the disk is full; free some space, or print somewhere else", file=sys.stderr)
        return EXIT_FAILED


def _drop_output() -> None:
    """What could not be written; the interpreter would try once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_what_can_be_printed() -> None:
    """A terminal of another encoding than UTF-8 shows `?` for what it lacks, where Python would give up."""
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="replace")


def _exit_code(error: TampuError) -> int:
    match error:
        case ConfigError():
            return EXIT_CONFIG
        case DaemonUnreachable():
            return EXIT_UNREACHABLE
        case Busy() | RateLimited():
            return EXIT_BUSY
        case _:
            return EXIT_FAILED


def _parse(argv: list[str]) -> argparse.Namespace:
    """The common options are taken wherever they stand: `tampu run --set a=b` and `tampu --set a=b run`."""
    end = argv.index("--") if "--" in argv else len(argv)
    common = _common_options()
    options, rest = common.parse_known_args(argv[:end])
    # Only the verb that is asked for is imported; all of them for the help.
    verbs = (rest[0],) if rest and rest[0] in VERBS else VERBS
    return _parser(common, verbs).parse_args(rest + argv[end:], options)


def _common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(prog="tampu", add_help=False, allow_abbrev=False)
    common.add_argument("--config", metavar="FILE", help="the configuration file")
    common.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set one key of the configuration, as in --set mqtt.host=192.168.1.10 (repeatable)",
    )
    return common


def _parser(common: argparse.ArgumentParser, verbs: tuple[str, ...]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tampu",
        description="Answers prompts from small devices with a local language model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"tampu {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="VERB", required=True)
    for verb in verbs:
        importlib.import_module(f"agent.cli.{verb}").register(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
