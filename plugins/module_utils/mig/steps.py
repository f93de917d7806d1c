# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The single actions a plan is made of, as values that can be shown, stored on disk and carried out in order.

A step speaks about one GPU and does not name it: the plan it belongs to does. So equal GPUs have equal steps, and a
plan made for one serves all of them.

Instances to be created are named by their placement, since their ids exist only once the driver has made them
(and can't be told from the placement). Instances that exist are named by id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ..gpu.model import Placement


@dataclass(frozen=True)
class SetMode:
    """Switch MIG mode. Takes effect at once on Hopper and later; on Ampere a :class:`ResetGpu` follows."""

    action: ClassVar[str] = "set_mode"
    enabled: bool

    def describe(self) -> str:
        """One sentence for a person."""
        return f"Switch MIG mode {'on' if self.enabled else 'off'}."


@dataclass(frozen=True)
class ResetGpu:
    """Reset this one GPU so that the pending mode becomes the current one. Where a reset is impossible: reboot."""

    action: ClassVar[str] = "reset_gpu"
    enabled: bool

    def describe(self) -> str:
        """One sentence for a person."""
        return f"Reset the GPU (or reboot), so that MIG mode is {'on' if self.enabled else 'off'}."


@dataclass(frozen=True)
class DestroyComputeInstance:
    """Destroy the compute instance *ci_id* of the GPU instance *gi_id*, which sits at *placement*."""

    action: ClassVar[str] = "destroy_compute_instance"
    gi_id: int
    ci_id: int
    profile: str
    placement: Placement

    def describe(self) -> str:
        """One sentence for a person."""
        return f"Destroy compute instance {self.ci_id} of GPU instance {self.gi_id} ({_where(self)})."


@dataclass(frozen=True)
class DestroyGpuInstance:
    """Destroy the GPU instance *gi_id*. Its compute instances are gone by then, by steps of their own."""

    action: ClassVar[str] = "destroy_gpu_instance"
    gi_id: int
    profile_id: int
    profile: str
    placement: Placement

    def describe(self) -> str:
        """One sentence for a person."""
        return f"Destroy GPU instance {self.gi_id} ({_where(self)})."


@dataclass(frozen=True)
class CreateGpuInstance:
    """Create a GPU instance of *profile_id* at exactly *placement*, never where the driver likes."""

    action: ClassVar[str] = "create_gpu_instance"
    profile_id: int
    profile: str
    placement: Placement

    def describe(self) -> str:
        """One sentence for a person."""
        return f"Create a GPU instance {_where(self)}."


@dataclass(frozen=True)
class CreateComputeInstance:
    """Create a compute instance of *slices* compute slices in the GPU instance that sits at *placement*.

    *gi_id* is ``None`` when an earlier step of the plan makes that GPU instance. The driver's list of compute instance
    profiles says which of them has *slices*: their ids are not part of the catalogue.
    """

    action: ClassVar[str] = "create_compute_instance"
    slices: int
    profile: str
    placement: Placement
    gi_id: int | None = None

    def describe(self) -> str:
        """One sentence for a person."""
        owner = "that GPU instance" if self.gi_id is None else f"GPU instance {self.gi_id}"
        size = f"{self.slices} compute slice{'' if self.slices == 1 else 's'}"
        return f"Create a compute instance of {size} in {owner} ({_where(self)})."


Step = SetMode | ResetGpu | DestroyComputeInstance | DestroyGpuInstance | CreateGpuInstance | CreateComputeInstance

_KINDS: dict[str, type[Step]] = {
    kind.action: kind
    for kind in (
        SetMode,
        ResetGpu,
        DestroyComputeInstance,
        DestroyGpuInstance,
        CreateGpuInstance,
        CreateComputeInstance,
    )
}


def step_to_dict(step: Step) -> dict[str, Any]:
    """A JSON-ready form: the step's fields, ``action`` and the sentence ``text``. See :func:`step_from_dict`."""
    return {"action": step.action, **asdict(step), "text": step.describe()}


def step_from_dict(data: Mapping[str, Any]) -> Step:
    """Rebuild a step from :func:`step_to_dict`'s form.

    :raises ValueError: the action is unknown, or a field is missing or unknown; the message names it.
    """
    fields = {key: value for key, value in data.items() if key not in ("action", "text")}
    kind = _KINDS.get(data.get("action", ""))
    if kind is None:
        raise ValueError(f"expected a step with one of the actions {', '.join(_KINDS)}, found {data.get('action')!r}")
    try:
        if "placement" in fields:
            fields["placement"] = Placement(**fields["placement"])
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"this is no step {kind.action!r}: {error}") from error


def _where(step: DestroyComputeInstance | DestroyGpuInstance | CreateGpuInstance | CreateComputeInstance) -> str:
    first, last = step.placement.start, step.placement.start + step.placement.size - 1
    return f"{step.profile} at slot {first}" if first == last else f"{step.profile} at slots {first}-{last}"
