# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing what a node needs to join: the munge key and slurmd's options. Nothing is written when nothing differs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .sources import Told

MUNGE_KEY = Path("etc/munge/munge.key")
OPTIONS = Path("etc/default/slurmd")
_HEADER = "# Written by node-join at the first boot, from what this machine was told about its cluster.\n"

#: How the file begins that the role slurm_compute writes on a node in service; in an image it begins otherwise.
OF_ANSIBLE = "# Written by the role hpc.compute.slurm_compute;"

#: Sets owner and group of a path by their names.
Chown = Callable[[Path, str, str], None]


@dataclass(frozen=True)
class Changed:
    """What was written."""

    munge_key: bool
    options: bool

    def __bool__(self) -> bool:
        return self.munge_key or self.options


def is_ansibles(root: Path) -> bool:
    """Whether Ansible has configured this machine since it was made: key and options are not node-join's any more.

    :raises OSError: slurmd's options can't be read.
    """
    path = root / OPTIONS
    return path.exists() and path.read_text(encoding="utf-8", errors="replace").startswith(OF_ANSIBLE)


def slurmd_options(told: Told, gres: str) -> str:
    """The text of ``/etc/default/slurmd``. *gres*: what a dynamic node offers, as ``Gres=`` takes it; may be empty."""
    words = ["--conf-server", ",".join(told.controllers)]
    if told.node_name:
        words += ["-N", told.node_name]
    if told.dynamic:
        words.append("-Z")
        if gres:
            words += ["--conf", f"Gres={gres}"]
    # systemd splits it at spaces outside of quotes
    return f"{_HEADER}SLURMD_OPTIONS='{shlex.join(words)}'\n"


def apply(told: Told, root: Path, chown: Chown, gres: str = "") -> Changed:
    """Write what *told* has, of which nothing may be missing.

    :raises OSError: a file can't be written. The key is written first: without it nothing else matters.
    """
    if told.munge_key is None:
        raise ValueError("expected a munge key, found none")
    key = _write(root / MUNGE_KEY, told.munge_key, 0o400, lambda path: chown(path, "munge", "munge"))
    options = _write(root / OPTIONS, slurmd_options(told, gres).encode(), 0o644, None)
    return Changed(key, options)


def _write(path: Path, content: bytes, mode: int, own: Callable[[Path], None] | None) -> bool:
    """Replace a file as a whole if it differs. A draft is never readable by others than the file will be."""
    if path.exists() and path.read_bytes() == content:
        return False
    draft = path.with_name(f".{path.name}.join")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    if own is not None:
        own(draft)
    draft.chmod(mode)
    draft.replace(path)
    return True
