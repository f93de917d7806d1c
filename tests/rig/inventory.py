# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Ansible inventory of a small test cluster: a controller and compute nodes of the rig."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from .node import Node
from .paths import REPO


def write(folder: Path, controller: Node, compute: Sequence[Node], backups: Sequence[Node] = ()) -> Path:
    """Write it to *folder*, for its owner only (it holds the cluster's munge key), and return the file for ``-i``.

    Beside it stands the rig's ``group_vars``: what all compute nodes in containers set.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "group_vars").unlink(missing_ok=True)
    (folder / "group_vars").symlink_to(REPO / "tests/rig/group_vars")
    controllers = [controller, *backups]
    key = base64.b64encode(secrets.token_bytes(128)).decode("ascii")
    cluster = {
        "slurm_compute_cluster_name": "rig",
        "slurm_compute_controllers": [f"{node.name}({node.ip})" for node in controllers],
        "slurm_compute_munge_key": key,
    }
    groups = {
        "controller": {"hosts": {node.name: node.connection() for node in controllers}},
        "compute": {"hosts": {node.name: node.connection() for node in compute}, "vars": cluster},
    }
    path = folder / "hosts.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps({"all": {"children": groups}}, indent=2), encoding="utf-8")
    return path
