# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slurm's words for devices: ``Gres=``, ``GresTypes=``, ``AccountingStorageTRES=`` and the file gres.conf."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .devices import Device, file_key

_MULTIPLIERS = {
    "": 1,
    **{letter: 1024**power for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", 1)},
}
_WORD = re.compile(r"[A-Za-z0-9_.+-]+", re.ASCII)
_COUNT = re.compile(r"(\d{1,18})([A-Za-z]*)", re.ASCII)
_SOCKETS = re.compile(r"\([^()]*\)$")


class GresSyntaxError(ValueError):
    """A ``Gres=`` value that Slurm would not read, or would read as something else than it looks like."""


@dataclass(frozen=True)
class GresEntry:
    """One part of a ``Gres=`` value. *type* is ``None`` for ``gpu:4``; *no_consume* as Slurm's flag of this name."""

    name: str
    type: str | None
    count: int
    no_consume: bool = False

    def __str__(self) -> str:
        words = [self.name, *([self.type] if self.type else []), *(["no_consume"] if self.no_consume else [])]
        return ":".join([*words, str(self.count)])


def parse_gres(text: str) -> list[GresEntry]:
    """The entries of a node's ``Gres=`` value, in order; those of one name and type are added up, as Slurm adds them.

    :raises GresSyntaxError: what is wrong with which part, and how it is written.
    """
    entries: dict[tuple[str, str | None, bool], int] = {}
    for part in text.split(",") if text.strip() else ():
        entry = _parse_entry(part.strip())
        key = (entry.name, entry.type, entry.no_consume)
        if entry.type is None and key in entries:
            raise GresSyntaxError(
                f"Gres={text}: {entry.name} without a type is there twice; write one entry with the sum"
            )
        entries[key] = entries.get(key, 0) + entry.count
    return [GresEntry(name, kind, count, flag) for (name, kind, flag), count in entries.items()]


def _parse_entry(part: str) -> GresEntry:
    def refuse(reason: str) -> GresSyntaxError:
        return GresSyntaxError(f"Gres entry {part!r}: {reason}")

    plain = _SOCKETS.sub("", part)  # Slurm ignores the sockets that "scontrol show node" prints
    words = plain.split(":")
    if not all(_WORD.fullmatch(word) for word in words):
        raise refuse("expected name[:type][:count] of letters, digits and _ . + -")
    count = 1
    if len(words) > 1 and words[-1][0].isdigit():
        match = _COUNT.fullmatch(words[-1])
        if match is None or match[2].lower() not in _MULTIPLIERS:
            raise refuse(
                "Slurm takes a last word that begins with a digit for a count, and this is none; "
                f"write the count after the type: {plain}:1"
            )
        count = int(match[1]) * _MULTIPLIERS[match[2].lower()]
        words.pop()
    name, *rest = words
    flags = [word for word in rest if word.lower() == "no_consume"]
    types = [word for word in rest if word.lower() != "no_consume"]
    if len(types) > 1 or len(flags) > 1:
        raise refuse("expected at most one type and one count")
    return GresEntry(name, types[0] if types else None, count, bool(flags))


def format_gres(entries: Iterable[GresEntry]) -> str:
    """The ``Gres=`` value."""
    return ",".join(str(entry) for entry in entries)


def gres_of(devices: Sequence[Device]) -> list[GresEntry]:
    """Entries that offer every device under its full type name, sorted by it.

    Such a list is always bound right: Slurm gives each detected device the longest configured name that its own
    contains, and of the names configured here that is its own.
    """
    counts = Counter(device.type for device in devices)
    return [GresEntry("gpu", kind, counts[kind]) for kind in sorted(counts)]


def gpu_entries(entries: Iterable[GresEntry]) -> list[GresEntry]:
    """The entries that ask for GPUs, at least one each."""
    return [entry for entry in entries if entry.name == "gpu" and entry.count > 0]


def type_id(name: str) -> int:
    """The number by which Slurm knows a type: a sum of its characters, so two types can have the same.

    ``2g.48gb`` and ``3g.47gb`` do. Slurm then adds the count of the second to that of the first and forgets its name.
    """
    return sum(byte << 8 * (position % 4) for position, byte in enumerate(name.encode())) & 0xFFFFFFFF


def gres_types(entries: Iterable[GresEntry]) -> list[str]:
    """Names for ``GresTypes=``, sorted."""
    return sorted({entry.name for entry in entries})


def accounting_tres(entries: Iterable[GresEntry]) -> list[str]:
    """Names for ``AccountingStorageTRES=``, sorted: each GRES and each of its types."""
    names = {f"gres/{entry.name}" for entry in entries}
    types = {f"gres/{entry.name}:{entry.type}" for entry in entries if entry.type is not None}
    return sorted(names | types)


def gres_conf(devices: Sequence[Device], *, gpus_present: bool, shared: Sequence[str] = ()) -> str:
    """The text of gres.conf.

    The table of devices is for people, and makes the file change when slices were made anew: slurmd keeps device files
    and UUIDs from its start, so it has to be restarted then.

    :param gpus_present: whether the machine has any GPU, readable or not. Without one ``slurmd`` isn't told to look,
        since it would complain about the missing driver at every start.
    :param shared: lines about shards or MPS; see :mod:`.sharing`.
    """
    head = ["# Managed by Ansible (hpc.compute.slurm_gres): changes made here are lost."]
    if not gpus_present:
        return "\n".join([*head, "# No GPU was found on this machine.", ""])
    table = [f"#   {device.type} {device.file} {device.uuid or '-'}" for device in sorted(devices, key=file_key)]
    listing = [
        "# What slurmd detects (type, device files, UUID); Gres= of the node in slurm.conf says which it offers:"
    ]
    return "\n".join([*head, "AutoDetect=nvml", *shared, *(listing + table if table else []), ""])
