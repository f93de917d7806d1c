# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which kind of kernel module a board can be driven by, and by which branches of the driver, from its PCI device id.

NVIDIA gives each chip a block of ids. The blocks are those of the PCI ID repository (pci.ids 2025.06.09 of Debian 13;
GB110 from 31c0 on, GB300 with 31c2 and 31c3, are newer). An id in no block is a board newer than
this table: it is taken for one of the newest family, as an old one would be in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..gpu.pci import PciFunction

#: The last branch with proprietary modules for boards without a GSP, and the last with proprietary modules at all.
LAST_BEFORE_TURING = 580
LAST_PROPRIETARY = 615


@dataclass(frozen=True)
class Family:
    """*open* and *proprietary*: whether there is such a module for it. *first* and *last*: branches; 0 is no limit."""

    name: str
    open: bool = True
    proprietary: bool = True
    first: int = 0
    last: int = 0


KEPLER = Family("Kepler or older", open=False, last=470)
MAXWELL = Family("Maxwell", open=False, last=LAST_BEFORE_TURING)
PASCAL = Family("Pascal", open=False, last=LAST_BEFORE_TURING)
VOLTA = Family("Volta", open=False, last=LAST_BEFORE_TURING)
TURING = Family("Turing")
AMPERE = Family("Ampere", first=450)
HOPPER = Family("Hopper", first=525)
GRACE_HOPPER = Family("Grace Hopper", proprietary=False, first=535)
ADA = Family("Ada", first=525)
BLACKWELL = Family("Blackwell", proprietary=False, first=570)
UNKNOWN = Family("unknown to this collection", proprietary=False, first=570)

_GRACE_HOPPER_IDS = (0x2342, 0x2345, 0x2348)
# First id after the block, family. In order.
_BLOCKS = (
    (0x1340, KEPLER),
    (0x1480, MAXWELL),
    (0x1600, PASCAL),  # GP100
    (0x1800, MAXWELL),  # GM200, and chips for notebooks
    (0x1D80, PASCAL),  # GP102 to GP108
    (0x1E00, VOLTA),  # GV100
    (0x2000, TURING),  # TU102 to TU106, TU117
    (0x2080, AMPERE),
    (0x2100, AMPERE),  # GA100
    (0x2200, TURING),  # TU116
    (0x2300, AMPERE),  # GA102
    (0x2400, HOPPER),  # GH100
    (0x2600, AMPERE),  # GA103 to GA107
    (0x2900, ADA),
    (0x3200, BLACKWELL),
)


def family_of(device_id: str) -> Family:
    """The family of a board by its four hex digits, as sysfs has them."""
    number = int(device_id, 16)
    if number in _GRACE_HOPPER_IDS:
        return GRACE_HOPPER
    return next((family for end, family in _BLOCKS if number < end), UNKNOWN)


@dataclass(frozen=True)
class Seen:
    """The boards of one family that a machine has."""

    family: Family
    addresses: tuple[str, ...]
    device_ids: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.addresses)
        return (
            f"{count} board{'s' if count > 1 else ''} of the family {self.family.name} ({', '.join(self.device_ids)})"
        )


def families_of(functions: Sequence[PciFunction]) -> tuple[Seen, ...]:
    """The families of the GPUs among *functions*, NVSwitches left out."""
    found: dict[Family, list[PciFunction]] = {}
    for function in functions:
        if function.is_gpu:
            found.setdefault(family_of(function.device_id), []).append(function)
    return tuple(
        Seen(family, tuple(one.address for one in boards), tuple(sorted({one.device_id for one in boards})))
        for family, boards in found.items()
    )
