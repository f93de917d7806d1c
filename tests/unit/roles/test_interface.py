# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role tells its users in four places (defaults, argument specs, entry points, README) must be one thing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(path for path in (Path(__file__).resolve().parents[3] / "roles").iterdir() if path.is_dir())
#: Variables of the whole collection: no role has a default for them.
SHARED = {"hpc_image_build"}

pytestmark = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def specs(role: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    return loaded


def defaults(role: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((role / "defaults/main.yml").read_text())
    return loaded


def own_files(role: Path) -> list[Path]:
    found = [path for part in ("tasks", "handlers", "vars") for path in (role / part).rglob("*.yml")]
    assert found
    return found


def test_defaults_and_main_spec_are_the_same(role: Path) -> None:
    optional = {
        name: option["default"]
        for name, option in specs(role)["main"]["options"].items()
        if name not in SHARED and not option.get("required")
    }
    assert optional == defaults(role)


def test_a_variable_is_set_in_one_place(role: Path) -> None:
    """Ansible takes the last of several without a word, and the first one's users get something else."""
    names = [name for file in (role / "vars").rglob("*.yml") for name in yaml.safe_load(file.read_text()) or {}]
    names += defaults(role)
    assert sorted(names) == sorted(set(names))


def test_no_file_is_left_behind(role: Path) -> None:
    """One that is added to a folder has to be added where the folder's files are named."""
    own = "".join(path.read_text() for part in ("tasks", "vars", "handlers") for path in (role / part).rglob("*.yml"))
    files = [path for path in (role / "files").rglob("*") if path.is_file()]
    left = [path for path in files if not any(name in own for name in _names(path.relative_to(role / "files")))]
    assert left == []


def _names(path: Path) -> list[str]:
    """How a task may name a file: by its path, or by a folder with all that is in it."""
    return [str(path), *(f"{folder}/\n" for folder in path.parents if folder.name)]


def test_every_entry_point_has_a_file_and_only_known_options(role: Path) -> None:
    for entry, spec in specs(role).items():
        assert (role / f"tasks/{entry}.yml").is_file(), entry
        assert set(spec["options"]) <= set(specs(role)["main"]["options"]), entry


def test_options_are_described(role: Path) -> None:
    for entry in specs(role).values():
        assert entry["short_description"]
        for name, option in entry["options"].items():
            assert option["type"], name
            assert all(line.endswith(".") for line in option["description"]), name


def test_readme_has_every_variable_in_its_table(role: Path) -> None:
    readme = (role / "README.md").read_text()
    rows = set(re.findall(rf"^\| `((?:{role.name}|hpc)_\w+)` \|", readme, flags=re.MULTILINE))
    assert rows - SHARED == set(specs(role)["main"]["options"]) - SHARED


def test_public_variables_carry_the_role_name(role: Path) -> None:
    assert all(name.startswith(f"{role.name}_") for name in defaults(role))


def test_everything_else_is_private(role: Path) -> None:
    """A result must not take the name of a variable that somebody sets; only the documented fact is public."""
    allowed = (f"__{role.name}_", f"{role.name}_result", f"{role.name}_reboot_required")
    for path in own_files(role):
        text = path.read_text()
        names = re.findall(r"^\s*register: (\w+)", text, flags=re.MULTILINE)
        for block in re.findall(r"ansible\.builtin\.set_fact:\n((?:\s{6}\S.*\n|\s{7,}.*\n)+)", text):
            names += re.findall(r"^ {6}(\w+):", block, flags=re.MULTILINE)
        if "vars" in path.relative_to(role).parts:
            names += list(yaml.safe_load(text))
        assert not [name for name in names if not name.startswith(allowed)], path


def test_private_variables_that_are_used_exist(role: Path) -> None:
    """Lint can't see a misspelt name, and a default filter would hide it."""
    texts = [path.read_text() for path in [*own_files(role), *role.rglob("templates/*")]]
    used = {name for text in texts for name in re.findall(r"\b(__\w+)\b", text)}
    set_somewhere = {
        name
        for other in ROLES
        for path in own_files(other)
        for name in re.findall(r"(?m)^\s*(?:register: )?(__\w+)(?::|$)", path.read_text())
    }
    assert used - set_somewhere == set()


def test_no_entry_point_is_called_by_file_name(role: Path) -> None:
    """``tasks_from: install.yml`` runs, but without validating the arguments."""
    assert not [path for path in own_files(role) if re.search(r"tasks_from:.*\.yml", path.read_text())]


def conditions(content: Any) -> list[str]:
    """Every ``when`` of a file of tasks, blocks included."""
    if isinstance(content, list):
        return [text for one in content for text in conditions(one)]
    if not isinstance(content, dict):
        return []
    given = content.get("when", [])
    own = [str(one) for one in (given if isinstance(given, list) else [given])]
    return own + [text for key in ("block", "rescue", "always") for text in conditions(content.get(key, []))]


def test_a_switch_from_the_command_line_is_read_as_one(role: Path) -> None:
    """``-e NAME=false`` is text, which is no condition."""
    switches = SHARED | {name for name, option in specs(role)["main"]["options"].items() if option["type"] == "bool"}
    bare = re.compile(rf"(not )?({'|'.join(switches)})( \| default\([^)]*\))?")
    found = [
        f"{path.name}: {text}"
        for path in own_files(role)
        if path.parent.name == "tasks"
        for text in conditions(yaml.safe_load(path.read_text()))
        if bare.fullmatch(text)
    ]
    assert found == []
