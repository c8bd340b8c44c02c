"""The house rules: who may import what, no cycles, and a README whose tree is the real one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "agent"

# Foreign module -> the only modules that may import it, and why.
ONE_DOOR = {
    "llama_cpp": (
        {"agent.engine.llama.bindings"},
        "the scheduler is tested without a model, and a loader bug has one place to be caught in",
    ),
    "paho": (
        {"agent.mqtt.paho_client", "agent.client"},
        "its callbacks run on its own thread: they are kept in one room (the device's client stands alone)",
    ),
    "yaml": (
        {"agent.config_file", "agent.catalog.manifest", "agent.cli.config", "agent.cli.demo"},
        "what is read from YAML is a struct everywhere else; the commands only write it",
    ),
    "starlette": ({"agent.api.front"}, "one HTTP front"),
    "uvicorn": ({"agent.api.http"}, "one owner of the listening socket and of the signals"),
    "jinja2": ({"agent.engine.chat_template"}, "templates come out of model files: one sandbox"),
    "watchdog": ({"agent.catalog.watch"}, "its observer thread ends at one door"),
    "amqtt": (
        {"agent.cli.embedded_broker", "agent.cli.demo_broker"},
        "an extra for the demo that nothing else may need",
    ),
    "psutil": ({"agent.hardware.memory", "agent.status"}, "probes are read where they can be faked"),
}

# Room -> what may not be imported in it, and why.
FORBIDDEN = {
    "agent.engine": (
        {"asyncio", "agent.mqtt", "agent.api", "agent.config", "agent.catalog", "agent.cli", "agent.app"},
        "the engine turns tokens into tokens; it knows no front, no loop and no configuration file",
    ),
    "agent.hardware": ({"asyncio", "agent.engine", "agent.mqtt", "agent.api"}, "probes are plain reading"),
    "agent.catalog": ({"asyncio", "agent.mqtt", "agent.api"}, "choosing a model is a pure function"),
    "agent.mqtt": ({"agent.api", "agent.cli", "agent.catalog"}, "two fronts, one engine: they never meet"),
    "agent.api": ({"agent.mqtt", "agent.cli", "agent.catalog"}, "two fronts, one engine: they never meet"),
    "agent.client": ({"agent"}, "it is copied to devices as one file"),
    "agent.errors": ({"agent"}, "everything else stands on it"),
    "agent.request": ({"agent"}, "the words are shared; they depend on nobody"),
}

READS_ENVIRONMENT = {
    "agent.config_file": "the only reader of settings",
    "agent.places": "XDG folders and systemd's are where things lie",
    "agent.systemd": "systemd's own variables are not settings",
    "agent.logs": "whether journald listens, and a terminal without colours, are not settings",
    "agent.engine_process": "decides what the child may see",
    "agent.hardware.gpu.ask_drivers": "decides what the child that asks drivers may see",
    "agent.cli.demo": "decides what the demo's daemon may see",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module a file imports, in full, and whether that happens when the file itself is imported."""
    tree = ast.parse(path.read_text())
    late = {id(inner) for node in ast.walk(tree) if is_late(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in MODULES else node.module), id(node) not in late
        elif name := named_import(node):
            yield name, id(node) not in late


def named_import(node: ast.AST) -> str | None:
    """The module in `import_module("...")` or `find_spec("...")`."""
    is_import = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "find_spec"))
    return str(node.args[0].value) if is_import and isinstance(node.args[0], ast.Constant) else None


def is_late(node: ast.AST) -> bool:
    """Inside a function, or under TYPE_CHECKING."""
    is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    return is_typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def is_inside(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize("foreign", ONE_DOOR)
def test_a_library_has_one_door(foreign: str) -> None:
    """Only the rooms named above import it."""
    allowed, why = ONE_DOOR[foreign]
    users = {
        name
        for name, path in MODULES.items()
        if any(is_inside(module, foreign) for module, _ in imports(path))
    }
    assert users <= allowed, f"{users - allowed} may not import {foreign}: {why}"
    assert users, f"nobody imports {foreign} any more: drop the rule, and the dependency"


def test_llama_cpp_is_imported_by_name_nowhere() -> None:
    """The bindings are loaded around their package's init; an `import llama_cpp` would undo that."""
    for name, path in MODULES.items():
        assert "import llama_cpp" not in path.read_text(), name


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_keeps_to_itself(room: str) -> None:
    """It imports nothing from its forbidden list."""
    forbidden, why = FORBIDDEN[room]
    inside = {name: path for name, path in MODULES.items() if is_inside(name, room)}
    assert inside, f"there is no {room} any more"
    for name, path in inside.items():
        for module, _ in imports(path):
            for word in forbidden:
                assert not is_inside(module, word), f"{name} imports {module}: {why}"


def test_the_environment_is_read_in_few_places() -> None:
    """os.environ is one more input: whoever reads it says why here."""
    for name, path in MODULES.items():
        reads = re.search(r"os\.(environ|getenv)", path.read_text())
        assert not reads or name in READS_ENVIRONMENT, f"{name} reads the environment"


def test_no_module_imports_itself_around_a_corner() -> None:
    """The import graph has no cycle."""
    graph = {
        name: {module for module, at_import in imports(path) if at_import and module in MODULES}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for module in graph[name]:
                visit(module, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_command_starts_without_the_daemons_libraries() -> None:
    """`tampu ask` on a small board must not wait for what it does not use."""
    seen: set[str] = set()
    waiting = ["agent.cli.main", "agent.cli.ask", "agent.cli.socket_client"]
    while waiting:
        name = waiting.pop()
        for module, at_import in imports(MODULES[name]):
            if at_import and module not in seen:
                seen.add(module)
                if module in MODULES:
                    waiting.append(module)
    heavy = {"starlette", "uvicorn", "yaml", "paho", "psutil", "watchdog", "asyncio"}
    assert not {module.split(".")[0] for module in seen} & heavy


def test_files_stay_small() -> None:
    """A file past 400 lines asks to be two; the device's client may not be, it is copied as one."""
    for name, path in MODULES.items():
        assert len(path.read_text().splitlines()) <= (600 if name == "agent.client" else 400), name


def test_the_devices_client_is_written_for_older_pythons() -> None:
    """Boards have them: its syntax is that of 3.9."""
    ast.parse(MODULES["agent.client"].read_text(), feature_version=(3, 9))


def test_the_tree_in_the_readme_is_the_real_one() -> None:
    """Every module is in README.md's tree, and nothing else is."""
    section = (ROOT / "README.md").read_text().split("## The house", 1)[1]
    tree = section.split("```")[1]
    named = set(re.findall(r"[\w/]+\.py", tree))
    real = {str(path.relative_to(PACKAGE)) for path in MODULES.values() if path.name != "__init__.py"}
    in_tree: set[str] = set()
    rooms: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 4 - 1
        rooms = rooms[: max(0, depth)]
        if match := re.match(r"\s+(\w+)/", line):
            rooms.append(match.group(1))
        in_tree |= {"/".join([*rooms, name]) for name in re.findall(r"\w+\.py", line)}
    assert named
    assert in_tree == real, f"missing: {real - in_tree}; gone: {in_tree - real}"
