"""`tampu run`: the daemon."""

import argparse

EXAMPLE = "example: tampu run --config /etc/tampu/tampu.yaml --set mqtt.host=192.168.1.10"


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser("run", help="run the daemon in the foreground", epilog=EXAMPLE)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    from agent import app, config

    return app.main(config.load(args.config, args.set))
