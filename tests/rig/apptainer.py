# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real Apptainer for tests: Debian unstable's package, which installs on Debian 13.

A node fetches it once, through its own mirror and checked by apt.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .node import Node
from .paths import CACHE, locked
from .process import RigError

_KEPT = CACHE / "apptainer"
#: Lists of its own, so that the node itself never hears of unstable. The mirror may be behind: its lists are old then.
_FETCH = r"""
mkdir -p /tmp/unstable/lists; cd /tmp/unstable
uri=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources)
printf 'Types: deb\nURIs: %s\nSuites: sid\nComponents: main\nSigned-By: %s\n' "$uri" \
    /usr/share/keyrings/debian-archive-keyring.pgp > unstable.sources
apt="apt-get -qq -o Dir::Etc::sourcelist=/tmp/unstable/unstable.sources -o Dir::Etc::sourceparts=-
    -o Dir::State::lists=/tmp/unstable/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o APT::Sandbox::User=root"
$apt update && $apt download apptainer && ls "$PWD"/apptainer_*.deb
"""


def fetch(node: Node) -> Path:
    """Debian unstable's package, as a file on this machine; *node* downloads it where the cache has none.

    :raises RigError: the mirror has no Debian unstable, or no Apptainer in it.
    """
    with locked("apptainer"):
        found = sorted(_KEPT.glob("apptainer_*.deb"))
        if found:
            return found[-1]
        path = node.run(["sh", "-ec", _FETCH]).stdout.strip()
        if not path.endswith(".deb"):
            raise RigError(f"expected Debian unstable's apptainer from the mirror of {node.name}, found {path!r}")
        _KEPT.mkdir(parents=True, exist_ok=True)
        # through the node: its /tmp is a file system of its own
        node.run(["cp", path, "/var/cache"])
        part = _KEPT / "part"
        shutil.copyfile(node.root / "var/cache" / Path(path).name, part)
        return part.rename(_KEPT / Path(path).name)
