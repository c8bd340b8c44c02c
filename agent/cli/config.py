"""`tampu config show | check`: the configuration as the daemon would read it."""

import argparse
from typing import Any

EPILOG = """\
examples:
  tampu config show
  tampu --config ./tampu.yaml config check
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `config` and its verbs."""
    verbs = _add(subparsers, "config", "the configuration: show, check").add_subparsers(
        dest="verb", metavar="VERB", required=True
    )
    parser = _add(verbs, "show", "print every key with its value, defaults filled in")
    parser.add_argument("--json", action="store_true", help="print JSON instead of YAML")
    parser.set_defaults(func=show)
    _add(verbs, "check", "say OK, or what is wrong (exit code 78)").set_defaults(func=check)


def _add(subparsers: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text,
        description=text,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def show(args: argparse.Namespace) -> int:
    """Print the configuration. Raises ConfigError."""
    from agent import config, config_file

    tree = config.to_tree(config_file.load(args.config, args.set))
    if args.json:
        import msgspec

        print(msgspec.json.encode(tree).decode())
    else:
        import yaml

        print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), end="")
    return 0


def check(args: argparse.Namespace) -> int:
    """Print which file is right. Raises ConfigError with what is wrong."""
    from agent import config_file, places

    config_file.check_files(config_file.load(args.config, args.set))
    print(f"OK: {places.find_config_file(args.config) or 'no configuration file, the built-in defaults'}")
    return 0
