# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The device files of GPUs and MIG instances, and whether they are there.

A process may use a MIG device when it can open three files: the GPU's, the GPU instance's capability and the compute
instance's. The driver publishes the capabilities' minors in ``mig-minors`` by the GPU's device *minor*, which is not
its index; they are read here and never computed (NVIDIA MIG User Guide, "Device nodes and capabilities").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .model import GpuInstance, Problem

MIG_MINORS = Path("proc/driver/nvidia-caps/mig-minors")

_LINE = re.compile(r"(\S+)\s+(\d+)")


@dataclass(frozen=True)
class Minors:
    """Capability minors by name (``gpu0/gi1/ci0/access``); *problem* says why there are none."""

    by_name: Mapping[str, int]
    problem: Problem | None = None


def read_minors(root: Path) -> Minors:
    """Read ``mig-minors`` below *root*. A line that is none is a problem, the others count."""
    path = root / MIG_MINORS
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return Minors(
            {},
            Problem(
                "capability_files_missing",
                f"{path} could not be read: {error.strerror or error}, so the device files of MIG instances are not "
                "known; the nvidia driver publishes it, and a container must be given it",
            ),
        )
    minors: dict[str, int] = {}
    odd: list[str] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match:
            minors[match.group(1)] = int(match.group(2))
        elif line.strip():
            odd.append(line)
    if not odd:
        return Minors(minors)
    return Minors(
        minors,
        Problem(
            "capability_files_missing",
            f"{path}: expected lines such as 'gpu0/gi1/access 12', found {odd[0]!r} and {len(odd) - 1} more that are "
            "none; this driver is not understood",
        ),
    )


def gpu_files(minor: int, address: str, root: Path) -> tuple[tuple[str, ...], list[Problem]]:
    """The device file of a whole GPU, and a problem when it is not there."""
    files = (f"/dev/nvidia{minor}",)
    return files, _missing(files, address, root)


def with_files(
    instances: tuple[GpuInstance, ...], minor: int, minors: Minors, address: str, root: Path
) -> tuple[tuple[GpuInstance, ...], list[Problem]]:
    """The same instances with the device files of their compute instances, and what is missing of these files.

    A file that the driver numbers but that is not in ``/dev`` is kept: it is what must be there.
    """
    unlisted: list[str] = []
    capabilities: list[str] = []
    filled = []
    for instance in instances:
        compute_instances = []
        for one in instance.compute_instances:
            names = (f"gpu{minor}/gi{instance.id}/access", f"gpu{minor}/gi{instance.id}/ci{one.id}/access")
            lacking = [name for name in names if name not in minors.by_name]
            if lacking:
                unlisted += lacking
                compute_instances.append(one)
                continue
            own = [f"/dev/nvidia-caps/nvidia-cap{minors.by_name[name]}" for name in names]
            capabilities += own
            compute_instances.append(replace(one, device_files=(f"/dev/nvidia{minor}", *own)))
        filled.append(replace(instance, compute_instances=tuple(compute_instances)))
    problems = _missing(tuple(dict.fromkeys(capabilities)), address, root)
    if unlisted and minors.problem is None:
        problems.append(
            Problem(
                "capability_files_missing",
                f"expected {', '.join(dict.fromkeys(unlisted))} in {root / MIG_MINORS}, found no such lines, so the "
                f"device files of these MIG instances of GPU {address} are not known; the instances may have been "
                "changed meanwhile: read again",
                address,
            )
        )
    return tuple(filled), problems


def _missing(files: tuple[str, ...], address: str, root: Path) -> list[Problem]:
    paths = [root / name.lstrip("/") for name in files]
    absent = [str(path) for path in paths if not _exists(path)]
    if not absent:
        return []
    return [
        Problem(
            "capability_files_missing",
            f"device files of GPU {address} are missing: expected {', '.join(absent)}; "
            "install nvidia-modprobe, which makes them on demand, and run nvidia-smi once as root",
            address,
        )
    ]


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        # Also a directory that may not be searched: the file can't be opened either way.
        return False
    return True
