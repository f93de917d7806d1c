# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slurm's own matching of configured GRES types to detected devices, repeated.

``slurmd`` doesn't look for the device that a ``Gres=gpu:TYPE:N`` means. It sorts what it detected and what is
configured by length of name, gives every detected device the first unused configured type that occurs *anywhere* in
the device's name, and renames the device. So ``gpu:h100:1`` may get a ``nvidia_h100_80gb_hbm3_1g.10gb`` slice while the
whole H100 stays unused, and only a line in a log says so: the counts agree, so the node is not drained.

The steps are those of Slurm 24.11.5, ``src/plugins/gres/gpu/gres_gpu.c``, where it merges configured and detected GPUs.
``tests/integration`` compares them with the real ``slurmd -G``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .devices import Device, file_key
from .gres import GresEntry, gpu_entries, type_id


@dataclass(frozen=True)
class Binding:
    """A device that Slurm offers, and the type under which it does; ``None`` for an untyped ``gpu:N``."""

    label: str | None
    device: Device


@dataclass(frozen=True)
class Outcome:
    """*bindings* in Slurm's order of devices; *ignored* devices that it offers nobody; *missing* configured types, each
    with the number of devices that it gets too few.
    """

    bindings: tuple[Binding, ...]
    ignored: tuple[Device, ...]
    missing: tuple[tuple[str | None, int], ...]


def bind(entries: Sequence[GresEntry], devices: Sequence[Device]) -> Outcome:
    """What ``slurmd`` makes of these ``gpu`` entries on a machine with these devices; other entries are passed over.

    :raises ValueError: some of the entries have a type and others have none, at which ``slurmd`` exits.
    """
    wanted: Counter[str | None] = Counter()
    first: dict[int, str] = {}
    for entry in gpu_entries(entries):
        name = entry.type
        wanted[name if name is None else first.setdefault(type_id(name), name)] += entry.count
    if None in wanted and len(wanted) > 1:
        raise ValueError("expected GPUs all with a type or all without, found both")
    offered, left = _take(wanted, _relabel(wanted, devices), devices)
    got = Counter(binding.label for binding in offered)
    return Outcome(
        bindings=tuple(sorted(offered, key=_final_order)),
        ignored=tuple(left),
        missing=tuple((label, count - got[label]) for label, count in wanted.items() if count > got[label]),
    )


def _relabel(wanted: Counter[str | None], devices: Sequence[Device]) -> dict[Device, str]:
    """The name that each device has after Slurm cut the detected names down to configured ones."""
    unused = {label: count for label, count in wanted.items() if label is not None}
    order = sorted(unused, key=_by_name_length)
    labels: dict[Device, str] = {}
    for device in sorted(devices, key=lambda one: (_by_name_length(one.type), file_key(one))):
        taken = next((label for label in order if unused[label] > 0 and label.lower() in device.type.lower()), None)
        if taken is not None:
            unused[taken] -= 1
        labels[device] = taken if taken is not None else device.type
    return labels


def _take(
    wanted: Counter[str | None], labels: dict[Device, str], devices: Sequence[Device]
) -> tuple[list[Binding], list[Device]]:
    """Configured records take devices of their name, by file; a record without a type takes whatever is first.

    A device that was not renamed still has its own name and competes with those that were renamed to it.
    """
    left = sorted(devices, key=file_key)
    offered = []
    for label in sorted(wanted, key=lambda one: _by_name_length(one or "")):
        matching = [device for device in left if label is None or labels[device] == label][: wanted[label]]
        offered += [Binding(label, device) for device in matching]
        left = [device for device in left if device not in matching]
    return offered, left


def _by_name_length(name: str) -> tuple[int, bytes]:
    return -len(name.encode()), name.encode()


def _final_order(binding: Binding) -> tuple[bool, int, tuple[tuple[int, int], ...]]:
    """Slurm's numbering of devices: whole GPUs as NVML lists them, then slices by file."""
    links = binding.device.links
    return not links, links.index(-1) if links else 0, file_key(binding.device)
