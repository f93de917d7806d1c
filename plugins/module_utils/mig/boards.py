# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every MIG capable board can be cut into: the data of :mod:`.catalog`, nothing else.

Two kinds of table. A *grid* says where instances fit, by profile id (the number that ``nvidia-smi mig -cgi`` takes, not
NVML's profile index); all boards of a kind share it. A *board* says what its profiles are called there and how big they
are. Ids and slots are the driver's own and stable; names follow memory size and have changed between driver branches
(GB300: ``1g.35gb`` on R590, ``1g.31gb`` on R610, same id), so a live driver's name always wins over this table.

Sources: NVIDIA MIG User Guide ("Supported MIG Profiles", "GPU instance placements"); ``nvidia-smi mig -lgip`` and
``-lgipp`` as published for A30, A100, H100, H100 NVL, GH200, H200, B200, GB200 and RTX PRO 6000 Server; the device
filters that NVIDIA's mig-parted ships. ``placements_observed`` is False where the placement list was not seen from that
very board and the 8-slot grid is inferred: profile ids and instance counts are the same as on the boards where it was.

Left out on purpose, because their documentation contradicts itself or no placement was ever published: RTX PRO 5000
(2bb3), RTX PRO 4500 (2c31), Thor (2b00), A100 64GB (20b3), A100X (20b8), A30X (20b9), H100 64GB (2337), H20 with HBM3e
(232c). Such a board is reported as unknown, and what its driver says counts.
"""

from __future__ import annotations

from typing import NamedTuple, TypedDict


class Shape(NamedTuple):
    """Where instances of one profile fit: *size* and *starts* in memory slots; *most* is how many fit on one GPU."""

    compute: int
    size: int
    starts: tuple[int, ...]
    most: int


class Label(NamedTuple):
    """What a profile is on one board: name, streaming multiprocessors, memory in GiB. None: never seen published."""

    name: str
    sm: int | None
    gib: float | None


class Variation(TypedDict, total=False):
    """Where one PCI device id differs from the rest of its board class."""

    model: str
    mode_semantics: str
    min_driver: str | None


class BoardData(TypedDict):
    """One board class; *profiles* is keyed by profile id, each of which is in the grid."""

    model: str
    pci_device_ids: tuple[str, ...]
    grid: str
    mode_semantics: str
    min_driver: str | None
    placements_observed: bool
    profiles: dict[int, Label]
    variations: dict[str, Variation]


class GridData(TypedDict):
    """A grid: memory slots and compute slices of the whole GPU, and the shape of each profile id.

    *engines* is (NVDEC, NVENC, JPEG, OFA) per profile where these also limit what fits together (RTX PRO only): their
    sum must stay within *engine_budget*.
    """

    memory_slots: int
    compute_slices: int
    shapes: dict[int, Shape]
    engine_budget: tuple[int, int, int, int] | None
    engines: dict[int, tuple[int, int, int, int]]


GRIDS: dict[str, GridData] = {
    # Slot 7 takes part in 2-slot and 4-slot instances only: seven compute slices share eight memory slots.
    "eight": {
        "memory_slots": 8,
        "compute_slices": 7,
        "shapes": {
            19: Shape(1, 1, (0, 1, 2, 3, 4, 5, 6), 7),
            20: Shape(1, 1, (0, 1, 2, 3, 4, 5, 6), 1),  # +me: the media engines exist once
            15: Shape(1, 2, (0, 2, 4, 6), 4),  # 1g with double memory
            14: Shape(2, 2, (0, 2, 4), 3),
            9: Shape(3, 4, (0, 4), 2),
            5: Shape(4, 4, (0,), 1),
            0: Shape(7, 8, (0,), 1),
        },
        "engine_budget": None,
        "engines": {},
    },
    "a30": {
        "memory_slots": 4,
        "compute_slices": 4,
        "shapes": {
            14: Shape(1, 1, (0, 1, 2, 3), 4),
            21: Shape(1, 1, (0, 1, 2, 3), 1),
            5: Shape(2, 2, (0, 2), 2),
            6: Shape(2, 2, (0, 2), 1),
            0: Shape(4, 4, (0,), 1),
        },
        "engine_budget": None,
        "engines": {},
    },
    "rtx_pro": {
        "memory_slots": 12,
        "compute_slices": 4,
        "shapes": {
            14: Shape(1, 3, (0, 3, 6, 9), 4),
            21: Shape(1, 3, (0, 3, 6, 9), 1),
            47: Shape(1, 3, (0, 3, 6, 9), 4),
            65: Shape(1, 3, (0, 3, 6, 9), 1),
            67: Shape(1, 3, (0, 3, 6, 9), 4),
            5: Shape(2, 6, (0, 6), 2),
            35: Shape(2, 6, (0, 6), 2),
            64: Shape(2, 6, (0, 6), 1),
            66: Shape(2, 6, (0, 6), 2),
            0: Shape(4, 12, (0,), 1),
            32: Shape(4, 12, (0,), 1),
        },
        "engine_budget": (4, 4, 4, 1),
        "engines": {
            14: (1, 1, 1, 0),
            21: (1, 1, 1, 1),
            47: (1, 1, 1, 0),
            65: (4, 4, 4, 1),
            67: (0, 0, 0, 0),
            5: (2, 2, 2, 0),
            35: (2, 2, 2, 0),
            64: (4, 4, 4, 1),
            66: (0, 0, 0, 0),
            0: (4, 4, 4, 1),
            32: (4, 4, 4, 1),
        },
    },
}

BOARDS: dict[str, BoardData] = {
    "a30": {
        "model": "A30 24GB",
        "pci_device_ids": ("20b7",),
        "grid": "a30",
        "mode_semantics": "ampere",
        "min_driver": "460.73.01",  # 1g+me came with R470, 2g+me with R525
        "placements_observed": True,
        "profiles": {
            14: Label("1g.6gb", 14, 5.81),
            21: Label("1g.6gb+me", 14, 5.81),
            5: Label("2g.12gb", 28, 11.69),
            6: Label("2g.12gb+me", 28, 11.69),
            0: Label("4g.24gb", 56, 23.44),
        },
        "variations": {},
    },
    "a100_40": {
        "model": "A100/A800 40GB",
        "pci_device_ids": ("20b0", "20b1", "20f1", "20f6", "20bd"),
        "grid": "eight",
        "mode_semantics": "ampere",
        "min_driver": "450.80.02",  # 1g+me came with R470, 1g.10gb with R525
        "placements_observed": True,
        "profiles": {
            19: Label("1g.5gb", 14, 4.75),
            20: Label("1g.5gb+me", 14, 4.75),
            15: Label("1g.10gb", 14, 9.62),
            14: Label("2g.10gb", 28, 9.62),
            9: Label("3g.20gb", 42, 19.5),
            5: Label("4g.20gb", 56, 19.5),
            0: Label("7g.40gb", 98, 39.25),  # some drivers print 39.50
        },
        "variations": {},
    },
    "a100_80": {
        "model": "A100/A800 80GB",
        "pci_device_ids": ("20b2", "20b5", "20f3", "20f5"),
        "grid": "eight",
        "mode_semantics": "ampere",
        "min_driver": "450.80.02",
        "placements_observed": True,
        "profiles": {
            19: Label("1g.10gb", 14, 9.62),
            20: Label("1g.10gb+me", 14, 9.62),
            15: Label("1g.20gb", 14, 19.5),
            14: Label("2g.20gb", 28, 19.5),
            9: Label("3g.40gb", 42, 39.25),
            5: Label("4g.40gb", 56, 39.25),
            0: Label("7g.80gb", 98, 78.5),
        },
        "variations": {},
    },
    "h100_80": {
        "model": "H100/H800 80GB (SXM5, PCIe)",
        "pci_device_ids": ("2330", "2331", "2322", "2324"),
        "grid": "eight",
        "mode_semantics": "hopper",
        "min_driver": "525.85.12",
        "placements_observed": True,
        "profiles": {  # multiprocessors are those of SXM5; PCIe has 114 in all and 14 per 1g
            19: Label("1g.10gb", 16, 9.75),
            20: Label("1g.10gb+me", 16, 9.75),
            15: Label("1g.20gb", 26, 19.62),
            14: Label("2g.20gb", 32, 19.62),
            9: Label("3g.40gb", 60, 39.5),
            5: Label("4g.40gb", 64, 39.5),
            0: Label("7g.80gb", 132, 79.25),
        },
        "variations": {},
    },
    "h100_94": {
        "model": "H100 NVL / H100 SXM5 94GB, H800 94GB",
        "pci_device_ids": ("2321", "2339", "233a"),
        "grid": "eight",
        "mode_semantics": "hopper",
        "min_driver": "525.85.12",
        "placements_observed": True,
        "profiles": {
            19: Label("1g.12gb", 16, 10.75),
            20: Label("1g.12gb+me", 16, 10.75),
            15: Label("1g.24gb", 26, 21.62),
            14: Label("2g.24gb", 32, 21.62),
            9: Label("3g.47gb", 60, 46.38),
            5: Label("4g.47gb", 64, 46.38),
            0: Label("7g.94gb", 132, 93.12),
        },
        "variations": {},
    },
    "h100_96": {
        "model": "GH200 96GB / H100 96GB",
        "pci_device_ids": ("2342", "2338", "233d", "2329", "20b6"),
        "grid": "eight",
        "mode_semantics": "hopper",
        "min_driver": "525.85.12",
        "placements_observed": False,
        "profiles": {  # multiprocessors are those of GH200
            19: Label("1g.12gb", 16, 11.0),
            20: Label("1g.12gb+me", 16, 11.0),
            15: Label("1g.24gb", 26, 23.0),
            14: Label("2g.24gb", 32, 23.0),
            9: Label("3g.48gb", 60, 46.5),
            5: Label("4g.48gb", 64, 46.5),
            0: Label("7g.96gb", 132, 93.0),
        },
        "variations": {
            "2329": {"model": "H20 96GB", "min_driver": "535.161"},
            # An Ampere board with the memory size, hence the profile names, of this class. Its mode change needs a
            # reset, and the Hopper driver minimum says nothing about it.
            "20b6": {"model": "PG506 96GB", "mode_semantics": "ampere", "min_driver": None},
        },
    },
    "gh200_144": {
        "model": "GH200 144GB HBM3e",
        "pci_device_ids": ("2348",),
        "grid": "eight",
        "mode_semantics": "hopper",
        "min_driver": None,
        "placements_observed": False,
        "profiles": {
            19: Label("1g.18gb", 16, 17.5),
            20: Label("1g.18gb+me", 16, 17.5),
            15: Label("1g.36gb", 26, 35.25),
            14: Label("2g.36gb", 32, 35.25),
            9: Label("3g.72gb", 60, None),
            5: Label("4g.72gb", 64, None),
            0: Label("7g.144gb", 132, None),
        },
        "variations": {},
    },
    "h200_141": {
        "model": "H200 141GB (SXM5, NVL)",
        "pci_device_ids": ("2335", "233b"),
        "grid": "eight",
        "mode_semantics": "hopper",
        "min_driver": "550.90.07",
        "placements_observed": False,
        "profiles": {
            19: Label("1g.18gb", 16, 16.0),
            20: Label("1g.18gb+me", 16, 16.0),
            15: Label("1g.35gb", 26, 32.25),
            14: Label("2g.35gb", 32, 32.25),
            9: Label("3g.71gb", 60, 69.5),
            5: Label("4g.71gb", 64, 69.5),
            0: Label("7g.141gb", 132, 139.75),
        },
        "variations": {},
    },
    "b200": {
        "model": "B200 180GB",
        "pci_device_ids": ("2901",),
        "grid": "eight",
        "mode_semantics": "hopper",
        "min_driver": "570.133.20",
        "placements_observed": False,
        "profiles": {  # 1g had 22.00 GiB on the first drivers; the name stayed
            19: Label("1g.23gb", 18, 20.5),
            20: Label("1g.23gb+me", 18, 20.5),
            15: Label("1g.45gb", 30, 44.25),
            14: Label("2g.45gb", 36, 44.25),
            9: Label("3g.90gb", 70, 89.0),
            5: Label("4g.90gb", 72, 89.0),
            0: Label("7g.180gb", 148, 178.5),
        },
        "variations": {},
    },
    "gb200": {
        "model": "GB200 186GB",
        "pci_device_ids": ("2941",),
        "grid": "eight",
        "mode_semantics": "hopper",
        "min_driver": "570.133.20",
        "placements_observed": False,
        "profiles": {  # production boards; the first samples said 1g.24gb, 3g.95gb, 7g.189gb
            19: Label("1g.23gb", 18, 22.0),
            20: Label("1g.23gb+me", 18, 22.0),
            15: Label("1g.47gb", 32, 45.5),
            14: Label("2g.47gb", 38, 45.5),
            9: Label("3g.93gb", None, None),
            5: Label("4g.93gb", None, None),
            0: Label("7g.186gb", None, None),
        },
        "variations": {},
    },
    "b300": {
        "model": "B300 SXM6 AC 269GB",
        "pci_device_ids": ("3182",),
        "grid": "eight",
        "mode_semantics": "hopper",
        "min_driver": "580.82.07",
        "placements_observed": False,
        "profiles": {
            19: Label("1g.34gb", None, 33.75),
            20: Label("1g.34gb+me", None, None),
            15: Label("1g.67gb", None, None),
            14: Label("2g.67gb", None, None),
            9: Label("3g.135gb", None, None),
            5: Label("4g.135gb", None, None),
            0: Label("7g.269gb", None, None),
        },
        "variations": {},
    },
    "gb300": {
        "model": "GB300 278GB",
        "pci_device_ids": ("31c2",),
        "grid": "eight",
        "mode_semantics": "hopper",
        "min_driver": "595.58",
        "placements_observed": False,
        "profiles": {
            19: Label("1g.35gb", None, None),
            20: Label("1g.35gb+me", None, None),
            15: Label("1g.70gb", None, None),
            14: Label("2g.70gb", None, None),
            9: Label("3g.139gb", None, None),
            5: Label("4g.139gb", None, None),
            0: Label("7g.278gb", None, None),
        },
        "variations": {},
    },
    "rtxpro6000": {
        "model": "RTX PRO 6000 Blackwell (Server, Workstation, Max-Q)",
        "pci_device_ids": ("2bb5", "2bb1", "2bb4"),
        "grid": "rtx_pro",
        "mode_semantics": "hopper",
        "min_driver": "575.51.03",  # Workstation and Max-Q also need vBIOS 98.02.55 / 98.02.6A and compute display mode
        "placements_observed": True,
        "profiles": {
            14: Label("1g.24gb", 46, 23.62),
            21: Label("1g.24gb+me", 46, 23.62),
            47: Label("1g.24gb+gfx", 46, 23.62),
            65: Label("1g.24gb+me.all", 46, 23.62),
            67: Label("1g.24gb-me", 46, 23.62),
            5: Label("2g.48gb", 94, 47.38),
            35: Label("2g.48gb+gfx", 94, 47.38),
            64: Label("2g.48gb+me.all", 94, 47.38),
            66: Label("2g.48gb-me", 94, 47.38),
            0: Label("4g.96gb", 188, 95.0),
            32: Label("4g.96gb+gfx", 188, 95.0),
        },
        "variations": {},
    },
}
