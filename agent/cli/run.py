"""`tampu run`: the daemon in the foreground, as systemd starts it."""

import argparse

EPILOG = """\
examples:
  tampu run
  tampu run --config ./tampu.yaml --set log.level=debug
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `run`."""
    parser = subparsers.add_parser(
        "run",
        help="run the daemon",
        description="Run the daemon until SIGTERM or Ctrl-C.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the daemon; returns its exit code. Raises ConfigError."""
    from agent import app, config_file

    return app.main(config_file.load(args.config, args.set))
