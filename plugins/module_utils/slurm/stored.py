# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How this node's gres.conf is made, kept on the node: every boot makes it anew, since device files are others then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from .plan import GresMode

STORED = Path("etc/hpc-compute/slurm-gres.json")

_KEYS = ("autodetect", "types", "shared", "path", "gres", "allow_unlisted")


class StoredError(Exception):
    """The file can't be used; the text says what is wrong with it."""


@dataclass(frozen=True)
class Stored:
    """*path* of gres.conf. *gres*: ``Gres=`` of the node, for where no slurm.conf says it; ``None`` without GPUs."""

    mode: GresMode = field(default_factory=GresMode)
    path: str = "/etc/slurm/gres.conf"
    gres: str | None = None
    allow_unlisted: bool = False

    def text(self) -> str:
        """The file; :func:`read_stored` reads it back."""
        data = {
            "autodetect": self.mode.autodetect,
            "types": dict(self.mode.types),
            "shared": {kind: dict(counts) for kind, counts in self.mode.shared.items()},
            "path": self.path,
            "gres": self.gres,
            "allow_unlisted": self.allow_unlisted,
        }
        return json.dumps(data, indent=2) + "\n"


def read_stored(root: Path) -> Stored | None:
    """What is stored below *root*; ``None`` where nothing is.

    :raises StoredError: there is something else in the file.
    """
    path = root / STORED
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoredError(f"expected JSON in {path}, found none: {error}") from error
    if not isinstance(data, dict) or set(data) != set(_KEYS):
        raise StoredError(f"{path}: expected the keys {', '.join(_KEYS)}, found {data!r}")
    if data["autodetect"] not in ("nvml", "off"):
        raise StoredError(f"{path}: expected autodetect to be nvml or off, found {data['autodetect']!r}")
    types: Any = data["types"]
    shared: Any = data["shared"]
    if not _all(types, str) or not isinstance(shared, dict) or not all(_all(one, int) for one in shared.values()):
        raise StoredError(f"{path}: expected names in types and numbers in shared, found {types!r} and {shared!r}")
    if not isinstance(data["path"], str) or not isinstance(data["gres"], str | None):
        raise StoredError(f"{path}: expected texts as path and gres, found {data['path']!r} and {data['gres']!r}")
    mode = GresMode(cast(Literal["nvml", "off"], data["autodetect"]), types, shared)
    return Stored(mode, data["path"], data["gres"], bool(data["allow_unlisted"]))


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, kind) for one in value.values())
