# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes with Debian's real Slurm, shared by these tests; root and the rig's cache are needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration.lone_cluster import LoneCluster
from integration.slurmd_node import SlurmdNode


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
