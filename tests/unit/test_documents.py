"""What is written for people about keys, topics and codes is what there is."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.config import Config
from agent.errors import BY_CODE
from agent.mqtt import frames
from agent.mqtt.channels import FRAMES
from agent.mqtt.ctl import READ_VERBS, WRITE_VERBS
from agent.mqtt.payloads import RequestPayload

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# Found at start: the host's name and the usual folders.
FOUND = {"node", "api.socket", "models.folder", "journal.folder"}
# An action of Home Assistant's.
OTHERS = {"mqtt.publish"}


def uncommented() -> dict[str, Any]:
    """systemd/tampu.yaml with every default written out; prose and the examples of tables left out."""
    text = (ROOT / "systemd" / "tampu.yaml").read_text()
    text = re.sub(r"^(?:profiles|clients): \{\}\n(?: +#.*\n)*", "", text, flags=re.MULTILINE)
    text = re.sub(r"^((?:  )?)# (?=(?:  )?[a-z_]+:(?: |$))", r"\1", text, flags=re.MULTILINE)
    tree: dict[str, Any] = yaml.safe_load(text)
    return tree


def leaves(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Values by their dotted keys."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{above}{name}"
        found |= leaves(value, f"{key}.") if isinstance(value, dict) and value else {key: value}
    return found


def test_the_yaml_shows_every_key_with_its_default() -> None:
    """And no other."""
    shown, real = leaves(uncommented()), leaves(msgspec.to_builtins(Config()))
    for table in ("profiles", "clients"):
        real.pop(table)
    assert shown.keys() == real.keys()
    assert {key: value for key, value in shown.items() if key not in FOUND} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in real.items()
        if key not in FOUND
    }


def test_the_tables_of_the_readme_name_every_field_and_frame() -> None:
    """As they are on the wire."""
    section = README.split("### From a device", 1)[1].split("### ", 1)[0]
    for name in RequestPayload.__struct_fields__:
        assert name == "v" or f"`{name}`" in section, name
    for frame in FRAMES:
        assert f"| `{frame.__struct_config__.tag}` |" in section
    assert "`boot_id`" in section
    assert "boot_id" in frames.Accepted.__struct_fields__


def test_the_readme_has_every_verb_and_every_code() -> None:
    """Of operators and of errors."""
    for word in (*READ_VERBS, *WRITE_VERBS):
        assert f"`{word}`" in README
    for code, error in BY_CODE.items():
        assert re.search(rf"`{code}`\s{error.status}", README), code


@pytest.mark.parametrize("page", ["README.md", "agent/mqtt/README.md", "CHANGELOG.md"])
def test_keys_that_are_named_exist(page: str) -> None:
    """`mqtt.pools` and the like, wherever they stand in prose."""
    tree = msgspec.to_builtins(Config())
    named = re.findall(r"`([a-z]+)\.([a-z_]+)", (ROOT / page).read_text())
    assert named
    for section, key in named:
        is_key = f"{section}.{key}" not in OTHERS and isinstance(tree.get(section), dict)
        assert not is_key or key in tree[section], f"{section}.{key}"


@pytest.mark.parametrize("page", ["README.md", "agent/mqtt/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Those to files of this repository."""
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
