# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layouts as YAML text: read safely, with the line of every value, so that an error can name it.

The text is composed to nodes and turned into values here, not by a loader's constructors: no tag makes an object, a key
that is there twice is an error, and ``0000:17:00.0`` and ``0x233010DE`` stay the texts they are (YAML 1.1 would make
numbers of them).
"""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Any

from .layout import Layout, LayoutError, Path, parse_layout

#: Far above any real layout (mig-parted's default file has 20 kB): a text beyond it is something else.
MOST_BYTES = 1 << 20
_MOST_VALUES = 100_000
_MOST_DEPTH = 12

_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "timestamp", "value"))
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {
    **{word: True for base in ("true", "yes", "on") for word in (base, base.title(), base.upper())},
    **{word: False for base in ("false", "no", "off") for word in (base, base.title(), base.upper())},
}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")


def read_layout(path: FilePath) -> Layout:
    """Read and check the layout file *path*.

    :raises LayoutError: it can't be read, or what :func:`load_layout` raises; the text names the file.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise LayoutError(f"expected a layout file of at most {MOST_BYTES} bytes, found {size} bytes: {path}")
        return load_layout(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LayoutError(f"expected a readable layout file, found {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise LayoutError(f"expected a layout file in UTF-8, found other bytes at {error.start} in {path}") from error
    except LayoutError as error:
        if str(path) in str(error):
            raise
        raise LayoutError(f"{error} (in {path})") from error


def load_layout(text: str) -> Layout:
    """Check the layout in *text*.

    :raises LayoutError: it is no YAML, or no layout; the text names the line.
    """
    return parse_layout(*load(text))


def load(text: str) -> tuple[Any, dict[Path, int]]:
    """The values in a YAML text, and the line (from 1) of each by its path.

    :raises LayoutError: it is no single YAML document, has a key twice, or uses tags.
    """
    if len(text) > MOST_BYTES:
        raise LayoutError(f"expected a layout of at most {MOST_BYTES} characters, found {len(text)}")
    try:
        import yaml  # not at the top: planning from values needs no PyYAML
    except ImportError as error:
        raise LayoutError("expected PyYAML to read a layout, found none: install python3-yaml") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise LayoutError("expected a layout with `version` and `mig-configs`, found an empty text")
        converter = _Converter()
        return converter.value(root, ()), converter.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise LayoutError(f"expected YAML, found a mistake: {error.problem or error.context}", (), line) from error
    except yaml.YAMLError as error:
        raise LayoutError(f"expected YAML, found a mistake: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise LayoutError("expected a layout, found a text nested hundreds of levels deep") from error


class _Converter:
    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self._count = 0

    def value(self, node: Any, path: Path) -> Any:
        """The value of a YAML node. Aliases are followed, so the budget bounds what a small text can unfold to."""
        line = node.start_mark.line + 1
        self.lines[path] = line
        self._count += 1
        if self._count > _MOST_VALUES or len(path) > _MOST_DEPTH:
            raise LayoutError("expected a layout, found a text with too many or too deeply nested values", path, line)
        if node.id == "scalar" and node.tag in _SCALARS:
            return _scalar(node)
        if node.id == "sequence" and node.tag == _TAG + "seq":
            return [self.value(item, (*path, number)) for number, item in enumerate(node.value)]
        if node.id == "mapping" and node.tag == _TAG + "map":
            return self._mapping(node, path)
        raise LayoutError(f"expected plain YAML, found the tag {node.tag!r}", path, line)

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        # Merged keys first, so that the lines of the mapping's own keys are the ones that remain.
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                merged = {**self._merged(value, path), **merged}
        self.lines[path] = node.start_mark.line + 1
        first_lines: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                continue
            line = key.start_mark.line + 1
            if key.id != "scalar":
                raise LayoutError("expected a text as key, found a list or mapping", path, line)
            if key.value in own:
                earlier = first_lines[key.value]
                raise LayoutError(f"expected each key once, found it in line {earlier} too", (*path, key.value), line)
            own[key.value] = self.value(value, (*path, key.value))
            self.lines[(*path, key.value)] = first_lines[key.value] = line
        return {**merged, **own}

    def _merged(self, node: Any, path: Path) -> dict[str, Any]:
        value = self.value(node, path)
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise LayoutError("expected a mapping to merge, found something else", path, node.start_mark.line + 1)
        merged: dict[str, Any] = {}
        for part in reversed(parts):
            merged.update(part)
        return merged


def _scalar(node: Any) -> Any:
    """Text, number, truth value or nothing, by the rules of YAML 1.2 for numbers and 1.1 for truth values."""
    if node.style is not None or node.tag == _TAG + "str":
        return node.value
    if node.value in _NULL:
        return None
    if node.value in _BOOL:
        return _BOOL[node.value]
    return int(node.value) if _INT.fullmatch(node.value) else node.value
