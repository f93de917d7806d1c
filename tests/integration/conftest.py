# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes with Debian's real Slurm, shared by these tests; root and the rig's cache are needed.

With ``-n 2 --dist loadgroup`` (pytest-xdist) files run side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.lone_cluster import LoneCluster
from integration.slurmd_node import SlurmdNode

#: Nodes of which there is one on the machine, so that all files that use one run in the same process.
_SHARED = {"slurmd_node", "cluster"}


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in this hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together what can't run at the same time: the tests of a file, and the files that share a node."""
    used: dict[Path, set[str]] = {}
    for item in items:
        used.setdefault(item.path, set()).update(_SHARED.intersection(getattr(item, "fixturenames", ())))
    for item in items:
        shared = used[item.path]
        if len(shared) > 1:
            raise pytest.UsageError(f"{item.path} uses {' and '.join(sorted(shared))}: take a file for each")
        item.add_marker(pytest.mark.xdist_group(next(iter(shared), item.path.stem)))


@pytest.fixture(scope="session")
def slurmd_node() -> Iterator[SlurmdNode]:
    node = SlurmdNode("it-slurmd", "10.213.97.30")
    node.up()
    try:
        yield node
    finally:
        node.down()


@pytest.fixture(scope="session")
def cluster() -> Iterator[LoneCluster]:
    one = LoneCluster("it-lone", "10.213.97.33")
    try:
        one.up()
        yield one
    finally:
        one.down()
