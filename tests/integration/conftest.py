# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes with Debian's real Slurm, shared by these tests; root and the rig's cache are needed.

With ``-n 2 --dist loadfile`` (pytest-xdist) two files run side by side: a file has names and addresses of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from integration.lone_cluster import LoneCluster
from integration.slurmd_node import SlurmdNode

#: Each process that runs tests (0 where there is one only) has these nodes to itself.
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
#: Files that take minutes with few tests. Begun last, they would run alone.
_FIRST = ("test_slurm_packages", "test_image_playbook", "test_static_role")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay in order."""
    items.sort(key=lambda item: item.path.stem not in _FIRST)


@pytest.fixture(scope="session")
def slurmd_node() -> Iterator[SlurmdNode]:
    node = SlurmdNode(f"it-slurmd{_PROCESS}", f"10.213.97.{200 + _PROCESS}")
    node.up()
    try:
        yield node
    finally:
        node.down()


@pytest.fixture(scope="session")
def cluster() -> Iterator[LoneCluster]:
    one = LoneCluster(f"it-lone{_PROCESS}", f"10.213.97.{210 + _PROCESS}")
    try:
        one.up()
        yield one
    finally:
        one.down()
