# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans without hardware: for boards by name, for recorded inventories, for thousands of them.

Machines of a fleet are mostly alike. What the plan of a machine depends on is read off its recorded inventory directly
(rebuilding all values of ten thousand machines takes far longer than planning them), and machines that agree in it
share one report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..gpu.model import Gpu, Inventory, MigState
from .catalog import Board, board_by_key, boards
from .layout import Entry, shown
from .layout_names import SelectorKind
from .machine import plan_machine
from .plan import Conditions
from .report import report

_BOARD = re.compile(r"(?:([1-9]\d?)x)?([a-z0-9_-]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Wishes:
    """What holds for all machines of one question. *driver_version* takes the place of the recorded one."""

    conditions: Mapping[str, Conditions] = field(default_factory=dict)
    driver_version: str | None = None
    allow_missing: bool = False
    drawing: bool = True
    width: int = 80
    ascii_only: bool = False


class Planner:
    """Answers for one configuration; remembers machines it has seen the like of."""

    def __init__(self, entries: Sequence[Entry], wishes: Wishes) -> None:
        self._entries = entries
        self._wishes = wishes
        self._reports: dict[Any, dict[str, Any]] = {}
        self._by_uuid = any(selector.kind is SelectorKind.UUID for entry in entries for selector in entry.devices or ())

    def inventory(self, inventory: Inventory) -> dict[str, Any]:
        """The report on one machine. :raises LayoutError: two entries name one of its GPUs."""
        wishes = self._wishes
        if wishes.driver_version is not None:
            inventory = replace(inventory, driver_version=wishes.driver_version)
        plan = plan_machine(inventory, self._entries, wishes.conditions, allow_missing=wishes.allow_missing)
        return report(plan, wishes.drawing, wishes.width, wishes.ascii_only)

    def recorded(self, data: Any) -> dict[str, Any]:
        """The report on a machine by its recorded inventory. Equal machines get the same object: do not change it.

        :raises ValueError: the data is no inventory, or two entries name one of its GPUs.
        """
        raw = inventory_data(data)
        key = _likeness(raw, self._by_uuid)
        if key is None:
            return self.inventory(Inventory.from_dict(raw))
        known = self._reports.get(key)
        if known is None:
            if "{{" in repr(key):
                raise ValueError("expected recorded values in a GPU inventory, found a template")
            known = self._reports[key] = self.inventory(Inventory.from_dict(raw))
        return known

    def hosts(self, hosts: Mapping[str, Any]) -> dict[str, Any]:
        """The reports on many machines by name: ``hosts``, and ``feasible``, ``changed``, ``infeasible`` of them all.

        :raises ValueError: one is no inventory, or its GPUs are named twice; the message names the host.
        """
        reports = {}
        for host, data in hosts.items():
            try:
                reports[str(host)] = self.recorded(data)
            except ValueError as error:
                raise ValueError(f"host {host}: {error}") from error
        infeasible = [host for host, one in reports.items() if not one["feasible"]]
        return {
            "feasible": not infeasible,
            "changed": any(one["changed"] for one in reports.values()),
            "infeasible": infeasible,
            "hosts": reports,
        }


def inventory_data(data: Any) -> Mapping[str, Any]:
    """The inventory in *data*: itself, or that in the result of the gpu_info module.

    :raises ValueError: it is neither.
    """
    if isinstance(data, Mapping):
        inner = data.get("inventory", data)
        if isinstance(inner, Mapping) and "schema" in inner:
            return inner
    raise ValueError(
        "expected a recorded GPU inventory (the `inventory` of a gpu_info result), found "
        f"{'a mapping without it' if isinstance(data, Mapping) else type(data).__name__}"
    )


def conditions_of(busy: Any, allow_busy: bool, target: Any) -> dict[str, Conditions]:
    """What is in use on the machine whose recorded inventory *target* is.

    :param busy: by PCI address the ids of the GPU instances in use, or ``True`` for a GPU that is used as a whole.
    :raises ValueError: *busy* has another form, names a GPU that is not there, or *target* is no inventory.
    """
    if not busy:
        return {}
    if not isinstance(busy, Mapping):
        raise ValueError(f"expected `busy` as PCI addresses with lists of GPU instance ids, found {shown(busy)}")
    if not isinstance(target, Mapping):
        raise ValueError(
            "expected `busy` only together with the recorded inventory of one machine, found another target"
        )
    known = [gpu.pci_address for gpu in Inventory.from_dict(inventory_data(target)).gpus]
    conditions = {}
    for address, ids in busy.items():
        if address not in known:
            raise ValueError(f"expected in `busy` PCI addresses among {', '.join(known)}, found {shown(address)}")
        whole = ids is True
        if not whole and not (isinstance(ids, Sequence) and all(isinstance(one, int) for one in ids)):
            raise ValueError(f"expected in `busy` a list of GPU instance ids or true for {address}, found {shown(ids)}")
        conditions[str(address)] = Conditions(frozenset(() if whole else ids), whole, allow_busy)
    return conditions


def boards_named(names: str | Sequence[str]) -> Inventory:
    """A machine with these boards, MIG off everywhere: ``h100-80``, ``8xa100-40``, ``a30,b200`` or a list of such.

    :raises ValueError: a name is unknown; the message lists the known ones.
    """
    parts = names.split(",") if isinstance(names, str) else names
    gpus: list[Gpu] = []
    for part in parts:
        match = _BOARD.fullmatch(part.strip()) if isinstance(part, str) else None
        board = None if match is None else board_by_key(match[2].lower().replace("-", "_"))
        if match is None or board is None:
            known = ", ".join(board.key.replace("_", "-") for board in boards())
            raise ValueError(
                f"expected boards of the MIG catalogue ({known}), with '8x' in front of more, found {part!r}"
            )
        gpus += [_new_gpu(board, len(gpus) + number) for number in range(int(match[1] or 1))]
    return Inventory(gpus=tuple(gpus))


def _new_gpu(board: Board, index: int) -> Gpu:
    address = f"{index // 200:04x}:{index % 200 + 1:02x}:00.0"
    mig = MigState(capable=True, current=False, pending=False)
    return Gpu(address, "10de", board.pci_device_ids[0], board=board.key, index=index, mig=mig)


def _likeness(raw: Mapping[str, Any], by_uuid: bool) -> Any:
    """All that a report depends on, as one hashable value; ``None`` when the data lacks a part of it.

    What it leaves out (memory, links, files, UUIDs where no entry uses them) differs between machines
    that are cut alike.
    """
    try:
        gpus = tuple([_gpu_likeness(gpu, by_uuid) for gpu in raw["gpus"]])
        key = (raw["schema"], raw["driver_version"], gpus)
        hash(key)
    except (KeyError, TypeError):
        # Broken data is judged by the one who rebuilds it, who says what is missing.
        return None
    return key


def _gpu_likeness(gpu: Mapping[str, Any], by_uuid: bool) -> Any:
    mig = gpu["mig"]
    return (
        gpu["pci_address"],
        gpu["vendor_id"],
        gpu["device_id"],
        gpu["subsystem_vendor_id"],
        gpu["subsystem_device_id"],
        gpu["board"],
        gpu["index"],
        gpu["name"],
        gpu["memory_mib"],
        gpu["uuid"] if by_uuid else None,
        mig["capable"],
        mig["current"],
        mig["pending"],
        tuple([_instance_likeness(one) for one in gpu["gpu_instances"]]),
    )


def _instance_likeness(one: Mapping[str, Any]) -> Any:
    place = one["placement"]
    cis = tuple([(ci["id"], ci["profile_id"], ci["name"]) for ci in one["compute_instances"]])
    return one["id"], one["profile_id"], one["profile"], place["start"], place["size"], cis
