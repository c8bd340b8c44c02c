"""`tampu doctor`: what this box has, what Tampu needs on it, and what is to be mended."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.doctor.report import BoxReport

EPILOG = """\
examples:
  tampu doctor
  tampu doctor --json
  tampu doctor --root ./recorded-box

Exit code: 0 all works, 1 something will not work, 78 the configuration is wrong.
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="look at this box, and say what is to be mended",
        description="Look at the box, llama.cpp, memory, models, broker and daemon; say what to mend.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="look at a recorded box: its proc/, sys/ and etc/, or files with what lscpu and others printed",
    )
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket (default: api.socket)")
    parser.set_defaults(func=show)


def show(args: argparse.Namespace) -> int:
    """Print the report; 1 with an error in it. Raises ConfigError, and TampuError for a bad root."""
    import sys

    import msgspec

    from agent.doctor.screen import render
    from agent.logs import is_coloured

    report = _examined(args)
    if args.json:
        print(msgspec.json.encode(report).decode())
    else:
        print(render(report, is_coloured=is_coloured(sys.stdout)))
    return 1 if report.num_errors else 0


def _examined(args: argparse.Namespace) -> "BoxReport":
    from agent.doctor import examine

    if args.root is not None:
        return examine.examine_recording(Path(args.root))
    import asyncio

    from agent import config_file

    return asyncio.run(examine.examine(config_file.load(args.config, args.set), socket=args.socket))
