#!/usr/bin/env python3
# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast MIG plans are made. Prints two figures: one 8-GPU node, and an inventory of ten thousand of them.

Run it from the repository's root: ``PYTHONPATH=.venv/collections .venv/bin/python bench/plan.py``
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import statistics
import time
from typing import Any

from ansible_collections.hpc.compute.plugins.filter.mig_plan import mig_plan
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import (
    ComputeInstance,
    Gpu,
    GpuInstance,
    Inventory,
    MigState,
    Placement,
)
from ansible_collections.hpc.compute.plugins.module_utils.mig.catalog import Board, board_by_key
from ansible_collections.hpc.compute.plugins.module_utils.mig.explain import nearest_to
from ansible_collections.hpc.compute.plugins.module_utils.mig.grid import bits, grid_of
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import parse_layout
from ansible_collections.hpc.compute.plugins.module_utils.mig.machine import plan_machine
from ansible_collections.hpc.compute.plugins.module_utils.mig.plan import CI_PROFILE_SLICES, plan_state
from ansible_collections.hpc.compute.plugins.module_utils.mig.resolve import demand_on
from ansible_collections.hpc.compute.plugins.module_utils.mig.solve import solve

LAYOUT = {
    "version": "v1",
    "mig-configs": {
        "mixed": [
            {"devices": [0, 1], "mig-enabled": False},
            {"devices": [2, 3, 4], "mig-enabled": True, "mig-devices": {"half": 1, "1g": 4}},
            {"devices": [5], "mig-enabled": True, "mig-devices": {"1g": 7}},
            {"devices": [6, 7], "mig-enabled": True, "mig-devices": {"1g": 2, "2g": 1, "half": 1}},
        ]
    },
}

CI_PROFILES = {slices: profile_id for profile_id, slices in sorted(CI_PROFILE_SLICES.items(), reverse=True)}


def random_gpu(board: Board, index: int, rng: random.Random) -> Gpu:
    """A GPU with MIG on and random instances, as a driver could have made them."""
    grid = grid_of(board)
    instances: list[GpuInstance] = []
    taken = 0
    ids: list[int] = []
    for _ in range(rng.randrange(8)):
        profile = rng.choice(board.profiles)
        start = rng.choice(profile.starts)
        mask = bits(start, profile.memory_slots)
        if mask & taken or grid.excess([*ids, profile.id]) is not None:
            continue
        taken |= mask
        ids.append(profile.id)
        ci = ComputeInstance(
            0, CI_PROFILES[profile.compute_slices], f"MIG-{rng.random()}", f"MIG {profile.name}", len(ids)
        )
        place = Placement(start, profile.memory_slots)
        instances.append(GpuInstance(len(ids), profile.id, profile.name, place, profile.memory_mib, (ci,)))
    return Gpu(
        f"0000:{index + 1:02x}:00.0",
        "10de",
        board.pci_device_ids[0],
        board=board.key,
        index=index,
        minor=index,
        uuid=f"GPU-{rng.random()}",
        name="NVIDIA H100 80GB HBM3",
        mig=MigState(True, True, True),
        gpu_instances=tuple(instances),
    )


def forget() -> None:
    """Empty what the planner remembers, as in a process that plans for the first time."""
    for memory in (solve, plan_state, nearest_to, demand_on, grid_of):
        memory.cache_clear()


def one_node(board: Board, rounds: int) -> float:
    """Median seconds to plan a node whose eight GPUs all differ, with nothing remembered."""
    rng = random.Random(1)  # noqa: S311  # figures that can be had again, no secrets
    entries = parse_layout(LAYOUT).config()
    seconds = []
    for _ in range(rounds):
        inventory = Inventory(tuple(random_gpu(board, index, rng) for index in range(8)), driver_version="580.95.05")
        forget()
        begin = time.perf_counter()
        plan_machine(inventory, entries)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def fleet(board: Board, nodes: int, states: int) -> tuple[float, float, float]:
    """Seconds for the whole inventory in the filter, MiB the filter added, MiB of the process at its highest."""
    rng = random.Random(2)  # noqa: S311
    kinds = [
        Inventory(tuple(random_gpu(board, index, rng) for index in range(8)), driver_version="580.95.05")
        for _ in range(states)
    ]
    texts = [json.dumps(kind.to_dict()) for kind in kinds]
    hosts: dict[str, Any] = {}
    for number in range(nodes):
        # Values of its own for every node, as from ten thousand answers of the module.
        data = json.loads(texts[number % states])
        for gpu in data["gpus"]:
            gpu["uuid"] = f"GPU-{number}-{gpu['index']}"
        hosts[f"node{number:05d}"] = data
    forget()
    gc.collect()
    before = peak()
    begin = time.perf_counter()
    result = mig_plan(LAYOUT, hosts, "mixed")
    seconds = time.perf_counter() - begin
    assert len(result["hosts"]) == nodes  # noqa: S101  # a figure for half the work would be worthless
    return seconds, peak() - before, peak()


def peak() -> float:
    """MiB of resident memory at the highest so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--nodes", type=int, default=10_000)
    arguments.add_argument("--states", type=int, default=50)
    arguments.add_argument("--rounds", type=int, default=200)
    given = arguments.parse_args()
    board = board_by_key("h100_80")
    if board is None:
        raise SystemExit("expected the board h100_80 in the catalogue, found none")
    print(f"one node, 8 GPUs in 8 states, nothing remembered: {one_node(board, given.rounds) * 1000:.2f} ms median")
    seconds, added, highest = fleet(board, given.nodes, given.states)
    print(
        f"{given.nodes} nodes x 8 GPUs, {given.states} states, in the filter with drawings: {seconds:.2f} s, "
        f"{added:.0f} MiB added by the filter, {highest:.0f} MiB with the inventory it was given"
    )


if __name__ == "__main__":
    main()
