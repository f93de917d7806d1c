# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloaded packages, shared by all nodes: a node that installs what another one installed downloads nothing.

Each node has its own archive folder, filled with hard links: a folder shared by running nodes would also share apt's
lock, and two nodes could not install at the same time.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .paths import CACHE, locked
from .process import run

_STORE = CACHE / "debs"
_ARCHIVES = "var/cache/apt/archives"


def put_into(root: Path) -> None:
    """Give the root file system *root* all packages that are known."""
    with locked("debs"):
        _STORE.mkdir(parents=True, exist_ok=True)
        (root / _ARCHIVES).mkdir(parents=True, exist_ok=True)
        for package in _STORE.glob("*.deb"):
            _link(package, root / _ARCHIVES / package.name)


def take_from(root: Path) -> None:
    """Keep the packages that the node downloaded; an older version of the same package is dropped."""
    with locked("debs"):
        _STORE.mkdir(parents=True, exist_ok=True)
        known = {_identity(package): package for package in _STORE.glob("*.deb")}
        for package in (root / _ARCHIVES).glob("*.deb"):
            if (_STORE / package.name).exists() or _is_stand_in(package):
                continue
            if old := known.pop(_identity(package), None):
                old.unlink()
            _link(package, _STORE / package.name)


def _is_stand_in(package: Path) -> bool:
    """Whether a test made it (integration/apt_repository.py): another test's may have its name."""
    return bool(run(["dpkg-deb", "--field", package, "Stand-In"]).stdout.strip())


def _identity(package: Path) -> tuple[str, str]:
    """Name and architecture of ``name_version_architecture.deb``."""
    name, _, rest = package.stem.partition("_")
    return name, rest.rpartition("_")[2]


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the folders lie on different file systems; whole or not there at all."""
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # another file system, or a limit on links: a copy does as well
        shutil.copyfile(source, part)
    part.rename(target)
