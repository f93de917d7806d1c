# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slurm's own numbering of CPU cores, in which ``slurmd`` states the cores near a GPU.

Linux numbers logical CPUs, in whatever order the firmware lists them. Slurm's "abstract" cores run through the first
socket, then the second, and count a core once however many threads it has. ``Cores=`` of a GPU is in that numbering.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CpuTopology:
    """*core_of* maps a logical CPU (Linux) to the index of its core (Slurm).

    *cores_per_socket* is 0 where the sockets differ, or are not known.
    """

    core_of: Mapping[int, int]
    cores_per_socket: int = 0

    def cores(self, cpus: Iterable[int]) -> str:
        """Slurm's cores of these logical CPUs, as Slurm prints them: ``0-3,8``.

        CPUs that the machine doesn't have are left out, as ``slurmd`` leaves them out.
        """
        return format_ranges({self.core_of[cpu] for cpu in cpus if cpu in self.core_of})

    def whole_sockets(self, cores: str) -> str | None:
        """The sockets that *cores* touch, as cores; ``None`` where these are all sockets, or sockets are not known.

        The controller sets a node to INVAL whose ``Cores=`` ends inside a socket ("doesn't match socket boundaries").

        :raises ValueError: it is no list of numbers.
        """
        if not self.cores_per_socket:
            return None
        sockets = {core // self.cores_per_socket for core in parse_ranges(cores)}
        if not sockets or len(sockets) >= len(set(self.core_of.values())) // self.cores_per_socket:
            return None
        size = self.cores_per_socket
        return format_ranges(core for socket in sockets for core in range(socket * size, (socket + 1) * size))

    def splits_a_socket(self, cores: str) -> bool:
        """Whether *cores* holds a part of a socket only; false where sockets are not known.

        :raises ValueError: it is no list of numbers.
        """
        size = self.cores_per_socket
        numbers = parse_ranges(cores)
        return bool(size) and any(
            not numbers.issuperset(range(socket * size, (socket + 1) * size))
            for socket in {core // size for core in numbers}
        )


def read_topology(root: Path = Path("/")) -> CpuTopology | None:
    """The topology below *root*, ``None`` where ``/sys/devices/system/cpu`` doesn't tell it."""
    base = root / "sys/devices/system/cpu"
    try:
        online = parse_ranges((base / "online").read_text(encoding="ascii"))
        packages: dict[int, dict[tuple[int, ...], None]] = {}
        for cpu in sorted(online):
            folder = base / f"cpu{cpu}/topology"
            package = int((folder / "physical_package_id").read_text(encoding="ascii"))
            siblings = parse_ranges((folder / "thread_siblings_list").read_text(encoding="ascii"))
            # Dictionaries keep order: of packages, and of the cores in each, by their first logical CPU. So does hwloc.
            packages.setdefault(package, {})[tuple(sorted(siblings))] = None
    except (OSError, ValueError):
        return None  # cores are extra knowledge; nothing that is written depends on it
    cores = [siblings for members in packages.values() for siblings in members]
    sizes = {len(members) for members in packages.values()}
    return CpuTopology(
        {cpu: index for index, siblings in enumerate(cores) for cpu in siblings},
        cores_per_socket=sizes.pop() if len(sizes) == 1 else 0,
    )


def parse_ranges(text: str) -> set[int]:
    """The numbers of a kernel or Slurm list: ``0-3,8``; the empty text is the empty set.

    :raises ValueError: it is no such list.
    """
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.update(_range(int(first), int(last or first)))
    return numbers


def _range(first: int, last: int) -> range:
    # More than any kernel numbers: a mistake, which must not take all memory.
    if last >= 1 << 20:
        raise ValueError(f"expected numbers below {1 << 20}, found {last}")
    return range(first, last + 1)


def format_ranges(numbers: Iterable[int]) -> str:
    """The reverse of :func:`parse_ranges`, shortest form."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
