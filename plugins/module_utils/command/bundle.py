# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command as one file: a zip archive of exactly the engine's files it needs, which Python runs as a program.

The engine is already on the node when a module runs there, so nothing else has to be copied. Equal sources make equal
bytes, so that a second run finds nothing to change.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import zipfile
from collections.abc import Iterator

#: ``-I``: no module of the directory or the environment of whoever runs it as root is imported.
SHEBANG = b"#!/usr/bin/python3 -I\n"

_PACKAGE = "hpc_compute"
_EPOCH = (1980, 1, 1, 0, 0, 0)
#: The command gpu-layout, by the module of the engine that has its ``main()``.
GPU_LAYOUT = "command.main"
#: The command node-health, likewise.
NODE_HEALTH = "health.main"


class BundleError(Exception):
    """A file of the engine can't be found; the text names it."""


def bundle(start: str = GPU_LAYOUT) -> bytes:
    """The program that begins with ``main()`` of the engine's module *start*."""
    engine = __name__.rpartition(".command.")[0]
    main = f"import sys\n\nfrom {_PACKAGE}.{start} import main\n\nsys.exit(main())\n"
    files = {"__main__.py": main, f"{_PACKAGE}/__init__.py": ""}
    for name, source in _sources(f"{engine}.{start}", engine):
        inner = name.removeprefix(f"{engine}.").replace(".", "/")
        files[f"{_PACKAGE}/{inner.partition('/')[0]}/__init__.py"] = ""
        files[f"{_PACKAGE}/{inner}.py"] = source
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            out.writestr(entry, files[path])
    return SHEBANG + archive.getvalue()


def _sources(start: str, engine: str) -> Iterator[tuple[str, str]]:
    """The source of module *start* and of all of the engine that it imports, however far away."""
    todo, seen = [start], {start}
    while todo:
        name = todo.pop()
        source = _source(name)
        yield name, source
        for imported in _imports(source, name):
            if imported.startswith(f"{engine}.") and imported not in seen:
                seen.add(imported)
                todo.append(imported)


def _source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    loader = None if spec is None else spec.loader
    # Ansible runs modules out of an archive, whose loader has the method and not the class.
    get_source = getattr(loader, "get_source", None)
    source: str | None = None if get_source is None else get_source(name)
    if source is None:
        raise BundleError(f"expected the source of {name} beside this module, found none")
    return source


def _imports(source: str, name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        package = name.rsplit(".", node.level)[0]
        target = f"{package}.{node.module}" if node.module else package
        yield from (f"{target}.{alias.name}" for alias in node.names if _is_module(f"{target}.{alias.name}"))
        if _is_module(target):
            yield target


def _is_module(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return False  # a name in a module, not a module in a package
    return spec is not None and spec.submodule_search_locations is None
