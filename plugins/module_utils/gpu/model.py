# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a machine's GPUs, as plain immutable values.

Everything above this file (MIG planning, Slurm configuration, modules, filters) works on these values, never on the
driver itself, so that a recorded inventory is as good as a live one. ``None`` always means "could not be read":
why is told by an entry of :attr:`Inventory.problems`, never guessed.

Names that are never the same thing (NVIDIA MIG User Guide, "Device nodes"; Slurm ``gres.conf(5)``):

* *pci_address*: where the board sits; the only name that needs no driver and survives everything but moving the board.
* *index*: NVML's enumeration order, which ``nvidia-smi`` prints. It may change between boots.
* *minor*: the ``N`` of ``/dev/nvidiaN``. Capability minors are computed from it, not from the index.
* *uuid*: ``GPU-...``; stable for the board.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: Layout of the dictionaries made by :meth:`Inventory.to_dict`; raised when a field changes its meaning.
INVENTORY_SCHEMA = 1

# More than any board has: a number beyond it is a mistake that must not take all memory.
_MOST_SLOTS = 256


@dataclass(frozen=True)
class Problem:
    """Something that keeps a GPU or the driver from being used, in words for a person.

    *code* is a stable identifier for programs (for example ``driver_missing``), *message* says what was expected, what
    was found and what to do. *pci_address* names the GPU it is about, ``None`` when it is about the machine.
    """

    code: str
    message: str
    pci_address: str | None = None


@dataclass(frozen=True)
class Placement:
    """Where a GPU instance sits: *start* and *size* in memory slots of its board (8, or 4 on A30, 12 on RTX PRO)."""

    start: int
    size: int


@dataclass(frozen=True)
class ComputeInstance:
    """One compute instance (CI) of a GPU instance: what CUDA and Slurm call a MIG device.

    *device_files* are the files a process must open to use it: the parent GPU's node, the capability node of the GPU
    instance and that of the compute instance, in this order. Empty when they could not be read.
    """

    id: int
    profile_id: int
    uuid: str | None = None
    name: str | None = None
    mig_index: int | None = None
    device_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class GpuInstance:
    """One GPU instance (GI). *profile_id* is the stable key; *profile* what board and driver call it: ``1g.10gb``."""

    id: int
    profile_id: int
    profile: str | None
    placement: Placement
    memory_mib: int | None = None
    compute_instances: tuple[ComputeInstance, ...] = ()


@dataclass(frozen=True)
class MigState:
    """MIG capability and mode of one GPU. *current* and *pending* are ``None`` when the driver did not tell.

    *current* and *pending* differ while a mode change waits for a GPU reset (Ampere) or a reboot.
    """

    capable: bool
    current: bool | None = None
    pending: bool | None = None


@dataclass(frozen=True)
class Gpu:
    """One physical NVIDIA GPU.

    The first block comes from sysfs and is there without any driver; the second from NVML and is ``None`` or empty as
    long as no driver answers for this GPU.

    *kernel_driver* is the PCI driver bound in sysfs (``nvidia``, ``nouveau``, ``vfio-pci``), ``None`` when unbound.
    *cpu_affinity* is a kernel CPU list, ``0-15,32-47``. *board* is a key of the MIG catalogue (``h100_80``), ``None``
    for a board the catalogue does not know. *nvlink_peers* maps the PCI address of another GPU to the number of direct
    links to it.
    """

    pci_address: str
    vendor_id: str
    device_id: str
    subsystem_vendor_id: str | None = None
    subsystem_device_id: str | None = None
    class_code: str | None = None
    kernel_driver: str | None = None
    numa_node: int | None = None
    cpu_affinity: str | None = None
    iommu_group: int | None = None
    board: str | None = None

    index: int | None = None
    minor: int | None = None
    uuid: str | None = None
    name: str | None = None
    memory_mib: int | None = None
    nvlink_peers: Mapping[str, int] = field(default_factory=dict)
    mig: MigState = field(default_factory=lambda: MigState(capable=False))
    gpu_instances: tuple[GpuInstance, ...] = ()
    device_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """All NVIDIA GPUs of a machine, ordered by PCI address, and what stands in the way of using them."""

    gpus: tuple[Gpu, ...] = ()
    nvswitch_count: int = 0
    driver_version: str | None = None
    nvml_version: str | None = None
    problems: tuple[Problem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form (lists, dicts, strings, numbers) with a ``schema`` key; :meth:`from_dict` reads it back."""
        data = asdict(self)
        data["schema"] = INVENTORY_SCHEMA
        return _listed(data)  # type: ignore[no-any-return]  # a dict goes in, a dict comes out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Inventory:
        """Rebuild an inventory from :meth:`to_dict`'s form, such as a recorded ``gpu_info`` result.

        :raises ValueError: the data has another schema, or a field is missing, unknown or of another kind than it was
            recorded; the message names it.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"expected a GPU inventory as a dictionary, found {type(data).__name__}")
        schema = data.get("schema")
        if schema != INVENTORY_SCHEMA:
            raise ValueError(
                f"expected a GPU inventory of schema {INVENTORY_SCHEMA}, found schema {schema!r}: "
                "record it again with the gpu_info module of this version of the collection"
            )
        try:
            return _typed(
                cls(
                    gpus=tuple(_gpu(entry) for entry in data["gpus"]),
                    nvswitch_count=data["nvswitch_count"],
                    driver_version=data["driver_version"],
                    nvml_version=data["nvml_version"],
                    problems=tuple(_typed(Problem(**entry)) for entry in data["problems"]),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no GPU inventory of schema {INVENTORY_SCHEMA}: {error}") from error


def _gpu(data: Mapping[str, Any]) -> Gpu:
    plain = dict(data)
    plain["mig"] = _typed(MigState(**plain["mig"]))
    plain["gpu_instances"] = tuple(_gpu_instance(entry) for entry in plain["gpu_instances"])
    plain["device_files"] = tuple(plain["device_files"])
    plain["nvlink_peers"] = dict(plain["nvlink_peers"])
    return _typed(Gpu(**plain))


def _gpu_instance(data: Mapping[str, Any]) -> GpuInstance:
    plain = dict(data)
    place = _typed(Placement(**plain["placement"]))
    if not (0 <= place.start < _MOST_SLOTS and 0 <= place.size < _MOST_SLOTS):
        raise ValueError(f"expected a placement in the memory slots of a board, found {place}")
    plain["placement"] = place
    plain["compute_instances"] = tuple(
        _typed(ComputeInstance(**{**entry, "device_files": tuple(entry["device_files"])}))
        for entry in plain["compute_instances"]
    )
    return _typed(GpuInstance(**plain))


_T = TypeVar("_T", bound="DataclassInstance")


def _typed(value: _T) -> _T:
    """*value*, whose fields are of the types that they are declared with: data from elsewhere may hold anything.

    :raises ValueError: one is not.
    """
    for name, hint in _hints(type(value)).items():
        found = getattr(value, name)
        if not _fits(found, hint):
            wanted = getattr(hint, "__name__", None) or str(hint).replace("collections.abc.", "")
            raise ValueError(f"expected {name} to be {wanted}, found {found!r:.80}")
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    parts = get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in parts)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(entry, parts[0]) for entry in value)
    if get_origin(hint) is Mapping:
        return all(_fits(key, parts[0]) and _fits(entry, parts[1]) for key, entry in value.items())
    # to Python a bool is a number
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _listed(value: Any) -> Any:
    """Tuples as lists all the way down, so that the value equals what a JSON round trip gives."""
    if isinstance(value, Mapping):
        return {key: _listed(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_listed(entry) for entry in value]
    return value
