# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The boards that can be emulated, read from boards.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

#: How many indices ``NVML_GPU_INSTANCE_PROFILE_*`` has: a client that asks for each of them must get an answer.
GPU_INSTANCE_PROFILE_COUNT = 18


@dataclass(frozen=True)
class Engines:
    """Engines of an instance: copy engines, decoders, encoders, JPEG decoders, optical flow accelerators."""

    copy: int
    decoder: int
    encoder: int
    jpeg: int
    ofa: int


@dataclass(frozen=True)
class Profile:
    """One way to cut a GPU instance. *id* is the profile id, *nvml* the index of ``NVML_GPU_INSTANCE_PROFILE_*``.

    *size* and *starts* are memory slots of the board's grid, *compute* compute slices, *max* the most of it on one GPU.
    """

    id: int
    nvml: int
    name: str
    compute: int
    size: int
    starts: tuple[int, ...]
    max: int
    sm: int
    memory_mib: int
    engines: Engines


@dataclass(frozen=True)
class Mig:
    """What MIG is on a board: the grid, the profiles, the mode's semantics (``ampere`` or ``hopper+``)."""

    memory_slots: int
    compute_slices: int
    mode: str
    profiles: tuple[Profile, ...]

    def by_id(self, profile_id: int) -> Profile | None:
        return next((profile for profile in self.profiles if profile.id == profile_id), None)

    def by_nvml_index(self, index: int) -> Profile | None:
        return next((profile for profile in self.profiles if profile.nvml == index), None)

    def by_name(self, name: str) -> Profile | None:
        return next((profile for profile in self.profiles if profile.name == name), None)

    @property
    def whole(self) -> Profile:
        """The profile that takes everything: its engines are all the GPU has."""
        return max(self.profiles, key=lambda profile: (profile.size, -profile.id))

    @property
    def max_devices(self) -> int:
        """What nvmlDeviceGetMaxMigDeviceCount tells while MIG is on."""
        return max(profile.max for profile in self.profiles)


@dataclass(frozen=True)
class NvLink:
    """NVLinks of a board: joined pairwise (``bridge``) or all with all (``board``), switched where there are eight."""

    links: int
    topology: str
    switch_count: int = 0
    switch_device_id: str | None = None


@dataclass(frozen=True)
class Board:
    """One model of GPU. *key* is its word in a machine specification, *name* what NVML calls it."""

    key: str
    name: str
    pci_device_id: str
    subsystem_device_id: str
    memory_mib: int
    architecture: int
    compute_capability: tuple[int, int]
    memory_clock: int
    graphics_clocks: tuple[int, int]
    power_limit_w: int
    min_driver: str | None = None
    board_class: str | None = None
    mig: Mig | None = None
    nvlink: NvLink | None = None


@cache
def boards() -> Mapping[str, Board]:
    """Every board by key, in the table's order."""
    with Path(__file__).with_name("boards.toml").open("rb") as file:
        table = tomllib.load(file)
    return {key: _board(key, entry, table) for key, entry in table["boards"].items()}


def _board(key: str, entry: Mapping[str, Any], table: Mapping[str, Any]) -> Board:
    clocks = entry["clocks"]
    major, minor = entry["compute_capability"]
    return Board(
        key=key,
        name=entry["name"],
        pci_device_id=entry["pci_device_id"],
        subsystem_device_id=entry["subsystem_device_id"],
        memory_mib=entry["memory_mib"],
        architecture=entry["architecture"],
        compute_capability=(major, minor),
        memory_clock=clocks["memory"],
        graphics_clocks=(clocks["graphics_min"], clocks["graphics_max"]),
        power_limit_w=entry["power_limit_w"],
        min_driver=entry.get("min_driver"),
        board_class=entry.get("class"),
        mig=_mig(entry, table) if "family" in entry else None,
        nvlink=NvLink(**entry["nvlink"]) if "nvlink" in entry else None,
    )


def _mig(entry: Mapping[str, Any], table: Mapping[str, Any]) -> Mig:
    family = table["families"][entry["family"]]
    engines = table["engines"][entry["engines"]]
    profiles = []
    for key, shape in family["profiles"].items():
        own = entry["profiles"][key]
        profiles.append(
            Profile(
                id=shape["id"],
                nvml=shape["nvml"],
                name=own["name"],
                compute=shape["compute"],
                size=shape["size"],
                starts=tuple(shape["starts"]),
                max=shape["max"],
                sm=own["sm"],
                memory_mib=round(own["gib"] * 1024),
                engines=Engines(*engines[key]),
            )
        )
    return Mig(family["memory_slots"], family["compute_slices"], entry["mode"], tuple(profiles))
