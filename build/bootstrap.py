"""The commands behind the entry points of this folder: `bootstrap.py COMMAND [ARGUMENT...]`.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import broker
import corpus
import lean_wheel
import mqttjs
import targets
import vulkan
from environment import LOCK_NAMES, ROOT, Environment, read_lock, setup
from steps import Trouble, say, say_done

CHECKS = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy", "--strict", "agent"),
)
UNIT_TESTS = "tests/unit"
# Most of a test run is waiting for brokers that come back; a worker that has nothing left takes from another.
SIDE_BY_SIDE = ("-n", "4", "--dist", "worksteal")
TEST_TIERS = (UNIT_TESTS, "tests/integration", "tests/model", "tests/packaging")
# Only with TAMPU_TEST_VULKAN=1: it needs a Vulkan driver, and llama.cpp compiled once more.
VULKAN_TESTS = "tests/vulkan"


class Proof(NamedTuple):
    script: str
    shows: str


PROOFS = {
    "peers": Proof("tests/bench/peers.py", "speed and memory beside llama.cpp's own benchmarks"),
    "engine": Proof("tests/bench/engine.py", "fleets, memory, stalls and starts beside llama-server"),
    "choice": Proof("tests/bench/choice.py", "what placement chooses, beside the best way that is measured"),
    "memory": Proof("tests/bench/prediction.py", "what placement predicts of memory, beside what is taken"),
    "faults": Proof("tests/bench/faults.py", "what is promised, among faults of everything at random"),
    "front": Proof("tests/bench/front.py", "what MQTT, pipe and daemon cost by themselves"),
}


def quickstart(arguments: Sequence[str]) -> int:
    say("Makes .venv, compiles llama.cpp for this CPU (minutes, once), fetches a 98 MB model, starts a demo.")
    environment = setup("demo")
    fetch_model(environment)
    sys.stdout.flush()
    os.chdir(ROOT)
    command = [str(environment.tampu), "demo", *arguments]
    # In our place, so that Ctrl-C and the exit status are the demo's own.
    os.execve(environment.tampu, command, child_environment())  # noqa: S606 - no shell is wanted


def test(arguments: Sequence[str]) -> int:
    """Everything, or what the arguments select. Ends with pytest's summary; fails if anything did."""
    chosen = [argument for argument in arguments if is_test_path(argument)]
    on_vulkan = [path for path in chosen if Path(path).is_relative_to(VULKAN_TESTS)]
    has_vulkan = os.environ.get("TAMPU_TEST_VULKAN") == "1"
    if on_vulkan and not has_vulkan:
        raise Trouble("these tests want a Vulkan driver: run 'TAMPU_TEST_VULKAN=1 ./build/test tests/vulkan'")
    failures = 0
    if not on_vulkan or len(on_vulkan) < len(chosen):
        failures = test_here([argument for argument in arguments if argument not in on_vulkan])
    if has_vulkan and (on_vulkan or not chosen):
        options = [argument for argument in arguments if argument not in chosen]
        failures = test_on_vulkan([*(on_vulkan or [VULKAN_TESTS]), *options]) or failures
    return failures


def test_here(arguments: Sequence[str]) -> int:
    environment = setup("dev")
    chosen = [argument for argument in arguments if is_test_path(argument)]
    if not chosen or any(not Path(path).is_relative_to(UNIT_TESTS) for path in chosen):
        broker.ensure()
        fetch_model(environment)
        recipe = lean_wheel.recipe(read_lock("run"))
        corpus.ensure(recipe, environment.python, environment.logs / "vocabularies.log")
        mqttjs.ensure_if_reachable(environment.python, environment.logs / "mqttjs.log")
    lint = 0 if arguments else run_all(environment, CHECKS)
    tests = pytest(environment, *(arguments if chosen else [*TEST_TIERS, *SIDE_BY_SIDE, *arguments]))
    return tests or lint


def test_on_vulkan(arguments: Sequence[str]) -> int:
    """In a venv of its own, since a venv has one llama.cpp; the first Vulkan device serves as GPU."""
    vulkan.ensure_lavapipe()
    environment = Environment(ROOT / ".venv-vulkan", targets.named("vulkan"))
    environment.setup("dev")
    fetch_model(environment)
    return pytest(environment, *arguments, GGML_VK_VISIBLE_DEVICES="0")


def check(arguments: Sequence[str]) -> int:
    environment = setup("dev")
    lint = run_all(environment, CHECKS)
    return pytest(environment, UNIT_TESTS, *arguments) or lint


def prove(arguments: Sequence[str]) -> int:
    if not arguments:
        for name, proof in PROOFS.items():
            say(f"  {name:<12}{proof.shows}")
        return 0
    name, *rest = arguments
    if name not in PROOFS:
        raise Trouble(f"there is no proof named {name}: './build/prove' lists them")
    return call(setup("dev").python, PROOFS[name].script, *rest)


def fetch_models(arguments: Sequence[str]) -> int:
    fetch_model(setup("run"), *arguments)
    return 0


def only_setup(arguments: Sequence[str]) -> int:
    """For images and editors: the venv and nothing else."""
    if len(arguments) != 1 or arguments[0] not in LOCK_NAMES:
        raise Trouble(f"setup takes one of {', '.join(LOCK_NAMES)}: try './build/with-python setup dev'")
    setup(arguments[0])
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "quickstart": quickstart,
    "test": test,
    "check": check,
    "prove": prove,
    "fetch-models": fetch_models,
    "setup": only_setup,
}


def fetch_model(environment: Environment, *arguments: str) -> None:
    """`tampu models fetch` says itself what it does and what is wrong; we only stop where it stops."""
    started = time.monotonic()
    status = call(environment.tampu, "models", "fetch", "--folder", str(ROOT / "models"), *arguments)
    if status:
        raise SystemExit(status)
    say_done("model", time.monotonic() - started)


def run_all(environment: Environment, checks: Sequence[Sequence[str]]) -> int:
    """Run every check also when one fails, so that one run shows all there is to mend."""
    return max([call(environment.python, "-m", *check) for check in checks])


def pytest(environment: Environment, *arguments: str, **variables: str) -> int:
    return call(environment.python, "-m", "pytest", *arguments, **variables)


def call(program: Path, *arguments: str, **variables: str) -> int:
    """Run a program of the venv in the checkout, on this terminal; returns its exit status."""
    sys.stdout.flush()
    command = [program, *arguments]
    return subprocess.run(command, cwd=ROOT, env=child_environment() | variables, check=False).returncode


def child_environment() -> dict[str, str]:
    """The caller's, with the broker on the path for whoever starts one."""
    return os.environ | {"PATH": broker.search_path()}


def is_test_path(argument: str) -> bool:
    """Is it a path or node id of ours, and not an option or its value?"""
    path = Path(argument.partition("::")[0])
    return path.parts[:1] == ("tests",) and (ROOT / path).exists()


def stop(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    # Treated as Ctrl-C is, so that a build stopped by CI cleans up as well.
    signal.signal(signal.SIGTERM, stop)
    name, *rest = arguments or [""]
    try:
        if name not in COMMANDS:
            raise Trouble(f"there is no command {name!r}: run one of the scripts in {ROOT / 'build'}")
        return COMMANDS[name](rest)
    except Trouble as trouble:
        print(f"tampu: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntampu: stopped; run the same command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
