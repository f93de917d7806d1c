# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Static mode: gres.conf with ``AutoDetect=off``, which names every device, so that types may have any name.

``slurmd`` then knows no UUIDs and sets ``CUDA_VISIBLE_DEVICES`` to the place of each device in its own list, which
means another device to CUDA, or none. So there is a second file, made at the same moment as gres.conf: the UUIDs in
that order, from which a TaskProlog (``roles/slurm_compute/files/libexec/task-prolog``) sets the variable right.

That order is the one of the types in the node's ``Gres=``, and within a type the one of the lines in gres.conf.
``tests/integration`` compares it with the real ``slurmd``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from .binding import Binding, Outcome
from .cpus import CpuTopology
from .devices import Device
from .gres import GresEntry, gpu_entries
from .match import Check, Refusal, fatal

#: Below a root. In /run, as device files and UUIDs of slices are others after a boot: an old map must not outlive it.
UUID_MAP = "run/hpc-compute/gpu-uuids"

_HEAD = "# Managed by Ansible (hpc.compute.slurm_gres): changes made here are lost."


def site_type(device: Device, types: Mapping[str, str]) -> str:
    """The site's name for a device: that of its full type, else that of the first pattern (``*``, ``?``, ``[...]``)
    that fits. Without any the full type stays.
    """
    exact = {pattern.lower(): name for pattern, name in types.items()}.get(device.type.lower())
    if exact is not None:
        return exact
    fits = (name for pattern, name in types.items() if fnmatchcase(device.type.lower(), pattern.lower()))
    return next(fits, device.type)


def static_entries(devices: Sequence[Device], types: Mapping[str, str]) -> list[GresEntry]:
    """Entries that offer every device under the site's name, sorted by it."""
    counts = Counter(site_type(device, types) for device in devices)
    return [GresEntry("gpu", name, counts[name]) for name in sorted(counts)]


def check_static(
    entries: Sequence[GresEntry],
    devices: Sequence[Device],
    types: Mapping[str, str],
    *,
    allow_unlisted: bool = False,
) -> Check:
    """Which device each entry gets; the bindings are in the order in which ``slurmd`` counts the devices."""
    gpus = gpu_entries(entries)
    refusal = fatal(gpus)
    if refusal is not None:
        return Check(None, (refusal,))
    left = [(site_type(device, types), device) for device in devices]
    have = ", ".join(map(str, static_entries(devices, types))) or "no GPU that Slurm could use"
    bindings: list[Binding] = []
    missing: list[tuple[str | None, int]] = []
    refusals: list[Refusal] = []
    for entry in gpus:
        own = [one for one in left if entry.type is None or one[0] == entry.type][: entry.count]
        left = [one for one in left if one not in own]
        bindings += [Binding(entry.type, device) for _, device in own]
        if len(own) == entry.count:
            continue
        missing.append((entry.type, entry.count - len(own)))
        code = "too_many" if own or entry.type is None else "unknown_type"
        refusals.append(
            Refusal(
                code,
                f"{entry} asks for {entry.count} and there are {len(own)}: under the configured names this machine has "
                f"{have}",
                entry.type,
            )
        )
    ignored = tuple(device for _, device in left)
    if ignored and not allow_unlisted and not refusals:
        names = ", ".join(f"{name} = {device}" for name, device in left)
        refusals.append(
            Refusal(
                "too_few",
                f"no entry is left for {names}, which every job could then use without asking, as Slurm guards only "
                f"devices that it knows: list all devices, {have}",
            )
        )
    return Check(Outcome(tuple(bindings), ignored, tuple(missing)), tuple(refusals))


def static_conf(
    bindings: Sequence[Binding], shared: Sequence[str] = (), topology: CpuTopology | None = None, head: str = _HEAD
) -> str:
    """The text of gres.conf. A GPU by ``File=``, a slice by ``MultipleFiles=``: its GPU and its two capability files.

    ``Cores=`` are whole sockets, and left out where that would be all of them. ``Links=`` has a place for every device,
    in Slurm's order, slices included, since a shorter list is read wrongly and a longer one makes the node INVAL.

    :param shared: lines about shards or MPS; see :mod:`.sharing`.
    """
    lines = [
        head,
        "# Device files of slices are others after each boot: gpu-layout.service writes this file anew.",
        "AutoDetect=off",
    ]
    for binding in bindings:
        device = binding.device
        words = ["Name=gpu", *([f"Type={binding.label}"] if binding.label else [])]
        words.append(f"MultipleFiles={device.file}" if device.kind == "mig" else f"File={device.file}")
        cores = topology.whole_sockets(device.cores) if topology is not None and device.cores else None
        words += [f"Cores={cores}"] if cores else []
        words += [f"Links={links}"] if (links := _links(device, bindings)) else []
        lines.append(" ".join([*words, "Flags=nvidia_gpu_env"]))
    return "\n".join([*lines, *shared, ""])


def uuid_map(bindings: Sequence[Binding]) -> str:
    """The map for the TaskProlog: a line ``PLACE UUID FILES`` for each device that Slurm offers, in Slurm's order."""
    lines = [
        "# Slurm's place of a device, its UUID, its files. Made by hpc.compute with gres.conf, for the TaskProlog."
    ]
    lines += [f"{place} {one.device.uuid} {one.device.file}" for place, one in enumerate(bindings)]
    return "\n".join([*lines, ""])


def _links(device: Device, bindings: Sequence[Binding]) -> str:
    """NVLinks to each offered device, -1 at itself; empty for a slice and for a GPU without any."""
    if not any(count > 0 for count in device.links):
        return ""
    return ",".join("-1" if one.device == device else str(_links_between(device, one.device)) for one in bindings)


def _links_between(device: Device, other: Device) -> int:
    # Device.links is in NVML's order, in which a GPU's own place is the one that has -1
    return device.links[other.links.index(-1)] if -1 in other.links else 0
