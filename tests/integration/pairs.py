# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pairs of machine and configuration for comparing our matching with the real slurmd; the same for the same seed.

The machines are those people have: one or several boards, whole, cut, or both, with ``+me`` and ``-me`` slices. The
configurations are those people write: full names and abbreviations, complete and not, right and wrong.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import Device, mig_type_name, type_name
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import GresEntry

BOARDS = {
    "NVIDIA A100-SXM4-40GB": (
        "1g.5gb",
        "1g.5gb+me",
        "1g.10gb",
        "2g.10gb",
        "3g.20gb",
        "1c.3g.20gb",
        "4g.20gb",
        "7g.40gb",
    ),
    "NVIDIA A100 80GB PCIe": ("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "7g.80gb"),
    "NVIDIA H100 80GB HBM3": ("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
    "NVIDIA H100 NVL": ("1g.12gb", "1g.24gb", "3g.47gb"),
    "NVIDIA H200": ("1g.18gb", "1g.18gb+me", "3g.71gb"),
    "NVIDIA A30": ("1g.6gb", "1g.6gb+me", "2g.12gb", "4g.24gb"),
    "NVIDIA B200": ("1g.23gb", "2g.45gb", "3g.90gb"),
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": (
        "1g.24gb",
        "1g.24gb-me",
        "1g.24gb+me.all",
        "1g.24gb+gfx",
        "2g.48gb",
    ),
    "Tesla V100-SXM2-16GB": (),
    "Tesla T4": (),
    "NVIDIA L40S": (),
}


@dataclass(frozen=True)
class Pair:
    """A machine and the ``Gres=`` of its node."""

    devices: tuple[Device, ...]
    entries: tuple[GresEntry, ...]

    def fake_gpus(self) -> str:
        """The machine as Slurm's own test file fake_gpus.conf has it."""
        lines = []
        for one in self.devices:
            links = ",".join(map(str, one.links)) or "(null)"
            lines.append(f"{one.type}|2|0-1|{links}|{one.file}|{one.unique_id or '(null)'}|nvidia_gpu_env\n")
        return "".join(lines)


def generate(count: int, seed: int) -> list[Pair]:
    """*count* pairs; a shorter list is the beginning of a longer one."""
    choose = random.Random(seed)  # noqa: S311  # reproducible, not secret
    pairs: list[Pair] = []
    while len(pairs) < count:
        machine = _machine(choose)
        entries = _configuration(choose, machine)
        if entries:
            pairs.append(Pair(tuple(machine), tuple(entries)))
    return pairs


def _machine(choose: random.Random) -> list[Device]:
    kinds = choose.sample(sorted(BOARDS), choose.choice((1, 1, 1, 2, 3)))
    boards = [choose.choice(kinds) for _ in range(choose.choice((1, 1, 2, 2, 4, 8, 11)))]
    minors = choose.sample(range(len(boards)), len(boards))  # a minor is not the index
    found: list[Device] = []
    for index, (board, minor) in enumerate(zip(boards, minors, strict=True)):
        profiles = BOARDS[board]
        if not profiles or choose.random() < 0.4:
            links = tuple(-1 if other == index else 0 for other in range(len(boards)))
            found.append(
                Device(
                    "gpu",
                    type_name(board),
                    (f"/dev/nvidia{minor}",),
                    f"GPU-{index}",
                    f"0000:{index:02x}:00.0",
                    None,
                    links,
                )
            )
            continue
        mixed = choose.random() < 0.7
        only = choose.choice(profiles)
        for number in range(choose.randint(1, 7)):
            found.append(_slice(board, choose.choice(profiles) if mixed else only, index, minor, number))
    choose.shuffle(found)
    return found


def _slice(board: str, profile: str, index: int, minor: int, number: int) -> Device:
    name = mig_type_name(board, f"{board} MIG {profile}", None)
    assert name is not None, f"{board} MIG {profile}"
    capability = 3 + 135 * minor + 9 * (number + 7)
    files = (f"/dev/nvidia{minor}", *(f"/dev/nvidia-caps/nvidia-cap{capability + one}" for one in (0, 1)))
    return Device("mig", name, files, f"MIG-{index}-{number}", f"0000:{index:02x}:00.0")


def _configuration(choose: random.Random, machine: Sequence[Device]) -> list[GresEntry]:
    if choose.random() < 0.08:
        return [GresEntry("gpu", None, max(1, len(machine) + choose.choice((-2, -1, 0, 0, 1))))]
    style = choose.choice(("full", "full", "short", "short", "mixed", "mixed", "wild"))
    counts: Counter[str] = Counter()
    for device in machine:
        if choose.random() < 0.12:
            continue  # left out, which is where Slurm binds wrongly
        name = device.type if style == "full" else choose.choice(list(_names(device.type)))
        if style == "mixed" and choose.random() < 0.5:
            name = device.type
        if style == "wild":
            name = _spoilt(choose, name)
        counts[name] += 1
    if counts and choose.random() < 0.2:
        counts[choose.choice(sorted(counts))] += choose.randint(1, 2)
    entries = [GresEntry("gpu", name, count) for name, count in counts.items()]
    choose.shuffle(entries)
    return entries


def _names(full: str) -> Iterator[str]:
    """What people shorten a type to; mostly one way on one machine, as they also do."""
    words = full.split("_")
    yield from ("_".join(words[start:]) for start in range(min(3, len(words))))
    yield words[-1]
    yield words[min(1, len(words) - 1)]
    yield words[-1].partition("+")[0]


def _spoilt(choose: random.Random, name: str) -> str:
    start = choose.randrange(len(name))
    return choose.choice(
        (name, name.upper(), name.replace("_", "-"), name[start : start + 4], name[:-1] or name, f"{name}x", "quadro")
    ).strip("_")
