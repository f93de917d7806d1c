#!/usr/bin/env python3
# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast a controller's files are made from the facts of thousands of nodes, in the filter ``slurm_nodes``.

Run it from the repository's root: ``PYTHONPATH=.venv/collections .venv/bin/python bench/fleet.py``
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

from ansible_collections.hpc.compute.plugins.filter.slurm_nodes import slurm_nodes, slurm_nodes_change
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet import read_facts, read_files
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet_plan import Present, Standing, plan_fleet
from ansible_collections.hpc.compute.plugins.module_utils.slurm.lint import lint

LAYOUTS = (
    "gpu:nvidia_h100_80gb_hbm3:8",
    "gpu:nvidia_h100_80gb_hbm3:4,gpu:nvidia_h100_80gb_hbm3_1g.10gb:28",
    "gpu:nvidia_h100_80gb_hbm3_3g.40gb:16",
    "gpu:nvidia_h100_80gb_hbm3_1g.10gb:56",
    "gpu:nvidia_a100-sxm4-40gb:8",
    "gpu:nvidia_a100_1g.5gb:42,gpu:nvidia_a100_3g.20gb:2",
)


def facts(nodes: int) -> dict[str, Any]:
    """What the role publishes of each node: layouts in no order, memory that differs by a few MiB, an address each."""
    rng = random.Random(1)  # noqa: S311  # figures that can be had again, no secrets
    hosts: dict[str, Any] = {}
    for number in range(1, nodes + 1):
        layout = LAYOUTS[min(number * len(LAYOUTS) // nodes, len(LAYOUTS) - 1) if rng.random() < 0.98 else 0]
        name = f"gpu{number:05d}"
        line = (
            f"NodeName={name} NodeAddr=10.{number // 65536}.{number // 256 % 256}.{number % 256} CPUs=224 Boards=1 "
            f"SocketsPerBoard=2 CoresPerSocket=56 ThreadsPerCore=2 RealMemory={2063000 + rng.randrange(64)} "
            f"Gres={layout}"
        )
        hosts[name] = {"node_name": name, "node_line": line, "gres": layout}
    return hosts


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--nodes", type=int, default=5_000)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    hosts = facts(given.nodes)
    seconds = []
    for _ in range(given.rounds):
        begin = time.perf_counter()
        files = slurm_nodes(hosts)
        seconds.append(time.perf_counter() - begin)
    lines = files["nodes_conf"].count("\n")
    print(
        f"{given.nodes} nodes x 8 GPUs, {len(LAYOUTS)} layouts: {statistics.median(seconds):.2f} s median, "
        f"nodes.conf has {lines} lines"
    )
    begin = time.perf_counter()
    change = slurm_nodes_change(files["nodes_conf"].replace("_1g.10gb:56", "_1g.10gb:55"), files["nodes_conf"])
    print(
        f"what one changed layout means: {time.perf_counter() - begin:.2f} s, {len(change['shrunk'])} nodes offer less"
    )
    begin = time.perf_counter()
    findings = lint(files["nodes_conf"], files["gres_conf"])
    print(f"lint of both files: {time.perf_counter() - begin:.2f} s, {len(findings)} findings")
    begin = time.perf_counter()
    nodes = [read_facts(host, one) for host, one in hosts.items()]
    present = Present(files["nodes_conf"], files["gres_conf"], read_files(files["nodes_conf"], files["gres_conf"]))
    plan = plan_fleet(present, nodes, lambda: Standing({}, frozenset()))
    print(f"a run that finds nothing to change: {time.perf_counter() - begin:.2f} s, action {plan.change.action}")


if __name__ == "__main__":
    main()
