# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file of the engine imports only from its own row of the table in docs/architecture.md or one below."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
ENGINE = REPO / "plugins/module_utils"
#: The one exception that the page names: data that imports nothing.
_CATALOG = ("catalog", "boards", "board")


def _rows() -> list[str]:
    """Folders of the engine, top row first."""
    page = (REPO / "docs/architecture.md").read_text(encoding="utf-8")
    table = page.partition("plugins/module_utils/")[2].partition("```")[0]
    return re.findall(r"^    (\w+)/ ", table, flags=re.MULTILINE)


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    """Folder and module of what a file imports from another folder of the engine."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 2:
            folder, _, name = (node.module or "").partition(".")
            for one in [name] if name else [alias.name for alias in node.names]:
                yield folder, one


def test_every_folder_has_its_row() -> None:
    assert sorted(_rows()) == sorted(path.name for path in ENGINE.iterdir() if any(path.glob("*.py")))


def test_nothing_imports_from_above() -> None:
    rows = _rows()
    upward = [
        f"{path.relative_to(ENGINE)} imports {folder}.{name}"
        for path in sorted(ENGINE.glob("*/*.py"))
        for folder, name in _imports(path)
        if rows.index(folder) < rows.index(path.parent.name) and not (folder == "mig" and name in _CATALOG)
    ]
    assert upward == []
