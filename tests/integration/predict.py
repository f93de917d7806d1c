# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside a node, with the engine on the path and no Ansible: what the engine knows of its GPUs, as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from ansible_collections.hpc.compute.plugins.module_utils.gpu.inventory import read_inventory
from ansible_collections.hpc.compute.plugins.module_utils.slurm.cpus import read_topology
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import devices
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import format_gres, gres_of


def main() -> None:
    inventory = read_inventory()
    found = devices(inventory, read_topology())
    answer = {
        "problems": [problem.code for problem in inventory.problems],
        "devices": [asdict(device) for device in found],
        "gres": format_gres(gres_of(found)),
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
