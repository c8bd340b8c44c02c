"""`tampu report`: one bounded file with what somebody who helps has to know, and without secrets."""

import argparse

EPILOG = """\
examples:
  tampu report
  tampu report --output /tmp/box.json

It holds no prompts, no answers, no passwords and no system prompts of profiles. Read it before you send it.
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `report`."""
    parser = subparsers.add_parser(
        "report",
        help="write a file for somebody who helps",
        description="Write what this box, its configuration and its daemon say into one JSON file.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", metavar="FILE", help="where (default: tampu-report-NODE-DATE.json here)")
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket (default: api.socket)")
    parser.set_defaults(func=write)


def write(args: argparse.Namespace) -> int:
    """Write the file and say what is in it. Raises TampuError where it cannot be written."""
    import asyncio

    from agent.doctor import support

    report = asyncio.run(support.collect(args.config, args.set, args.socket))
    content = support.encode(report)
    path = support.save(content, args.output, report.node)
    print(f"{path} ({len(content) / 1000:.0f} kB; only you may read it) holds:")
    for line in support.contents(report):
        print(f"  {line}")
    print("It holds no prompts, answers, passwords or system prompts. Read it before you send it.")
    return 0
