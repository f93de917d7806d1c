# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""slurmd is started by one role and reads what others write, and is restarted where that is younger than its start."""

from __future__ import annotations

from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parents[3]
#: What slurmd reads: device files and gres.conf, mounts it waits for, prolog and epilog.
BEFORE = ("nvidia_gpu_drivers", "gpu_layout", "beegfs_client", "monitoring_stack")


def test_a_second_run_finds_nothing_younger_than_slurmd() -> None:
    (play,) = yaml.safe_load((REPO / "playbooks/node.yml").read_text())
    order = [one["role"].removeprefix("hpc.compute.") for one in play["roles"]]
    assert max(order.index(role) for role in BEFORE) < order.index("slurm_compute")


def test_the_list_names_every_role_that_writes_for_slurmd() -> None:
    """A role that ships something for /etc/slurm or for slurmd's unit is in the list, or is slurmd's own."""
    writing = {
        path.relative_to(REPO / "roles").parts[0]
        for path in (REPO / "roles").rglob("*.yml")
        if "/etc/slurm/prolog.d" in path.read_text() or "slurmd.service.d" in path.read_text()
    }
    assert "monitoring_stack" in writing
    assert writing <= {*BEFORE, "slurm_compute", "node_health", "node_join"}, writing
