# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole GPUs that several jobs share: Slurm's GRES ``shard`` and ``mps``.

A line for each GPU, as ``slurmd`` 24.11 has trouble with every shorter form: it spreads a plain ``Count=`` unevenly,
exits at a list of files ("multiple configurations with and without File"), and where ``File=`` comes without ``Flags=``
it may set no ``CUDA_VISIBLE_DEVICES`` at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .binding import Binding
from .gres import GresEntry

#: Slurm's names, and what is counted of them for each GPU.
KINDS = {"shard": "jobs that may share it", "mps": "percent of it, 100 in most cases"}


class SharingError(ValueError):
    """GPUs can't be shared so; the text says why."""


@dataclass(frozen=True)
class Sharing:
    """*lines* of gres.conf, and the *entries* of ``Gres=`` that go with them."""

    lines: tuple[str, ...] = ()
    entries: tuple[GresEntry, ...] = ()


def share(bindings: Sequence[Binding], wishes: Mapping[str, Mapping[str, int]]) -> Sharing:
    """Share GPUs.

    :param wishes: by ``shard`` and ``mps``, how many for each GPU, by type: the configured or the detected one, or a
        pattern of either. The first that fits counts.
    :raises SharingError: there are slices, a type fits no GPU, a count is no count, or a GPU is shared in both ways.
    """
    if not any(wishes.values()):
        return Sharing()
    slices = [one.device for one in bindings if one.device.kind == "mig"]
    if slices:
        raise SharingError(
            f"expected whole GPUs only on a machine where some are shared, found the slice {slices[0]}: Slurm shares "
            "slices, too, and gives such a job a number instead of the slice's UUID, with which it computes elsewhere. "
            "Turn MIG off on this machine, or take shards and MPS out"
        )
    lines: list[str] = []
    entries: list[GresEntry] = []
    taken: dict[str, str] = {}
    for kind, counts in wishes.items():
        total = 0
        for pattern, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise SharingError(f"{kind} of {pattern}: expected a number from 1 on for each GPU, found {count!r}")
            if not any(_fits(one, pattern) for one in bindings):
                types = ", ".join(sorted({one.label or one.device.type for one in bindings})) or "no GPU"
                raise SharingError(f"{kind} of {pattern}: expected a type of this machine's GPUs ({types})")
        for one in bindings:
            number = next((count for pattern, count in counts.items() if _fits(one, pattern)), 0)
            if not number:
                continue
            file = one.device.file
            if taken.setdefault(file, kind) != kind:
                raise SharingError(
                    f"{one.device} is shared by {taken[file]} and {kind}: choose one of them for each GPU"
                )
            lines.append(f"Name={kind} Count={number} File={file} Flags=nvidia_gpu_env")
            total += number
        if total:
            entries.append(GresEntry(kind, None, total))
    return Sharing(tuple(lines), tuple(entries))


def counts_of(given: Mapping[str, object], option: str) -> dict[str, int]:
    """*given* with numbers, which may have come as text.

    :raises SharingError: one is no number.
    """
    for pattern, count in given.items():
        if isinstance(count, bool) or not str(count).isdecimal():
            raise SharingError(f"{option} of {pattern}: expected a number for each GPU, found {count!r}")
    return {pattern: int(str(count)) for pattern, count in given.items()}


def _fits(binding: Binding, pattern: str) -> bool:
    names = (binding.label or binding.device.type, binding.device.type)
    return any(fnmatchcase(name.lower(), pattern.lower()) for name in names)
