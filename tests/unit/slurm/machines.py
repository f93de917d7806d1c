# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import (
    ComputeInstance,
    Gpu,
    GpuInstance,
    Inventory,
    MigState,
    Placement,
    Problem,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import Device, mig_type_name, type_name

H100 = "NVIDIA H100 80GB HBM3"
A100 = "NVIDIA A100-SXM4-40GB"


def gpu(index: int, name: str = H100, *, minor: int | None = None, profiles: tuple[str, ...] | None = None) -> Gpu:
    """A GPU as the inventory has it; cut when *profiles* is given."""
    minor = index if minor is None else minor
    instances = tuple(
        GpuInstance(
            id=number + 7,
            profile_id=19,
            profile=profile,
            placement=Placement(number, 1),
            memory_mib=9984,
            compute_instances=(
                ComputeInstance(
                    id=0,
                    profile_id=0,
                    uuid=f"MIG-{index}-{number}",
                    name=f"{name} MIG {profile}",
                    mig_index=number,
                    device_files=(
                        f"/dev/nvidia{minor}",
                        f"/dev/nvidia-caps/nvidia-cap{100 * minor + 2 * number + 10}",
                        f"/dev/nvidia-caps/nvidia-cap{100 * minor + 2 * number + 11}",
                    ),
                ),
            ),
        )
        for number, profile in enumerate(profiles or ())
    )
    on = profiles is not None
    return Gpu(
        pci_address=f"0000:{index + 1:02x}:00.0",
        vendor_id="10de",
        device_id="2330",
        kernel_driver="nvidia",
        cpu_affinity="0-3",
        index=index,
        minor=minor,
        uuid=f"GPU-{index}",
        name=name,
        memory_mib=81559,
        mig=MigState(capable=True, current=on, pending=on),
        gpu_instances=instances,
        device_files=(f"/dev/nvidia{minor}",),
    )


def machine(*gpus: Gpu, problems: tuple[Problem, ...] = ()) -> Inventory:
    return Inventory(gpus=gpus, driver_version="580.95.05", nvml_version="13.580.95.05", problems=problems)


def undriven(one: Gpu) -> Gpu:
    """The same GPU without a driver."""
    bare = replace(one, kernel_driver=None, index=None, minor=None, uuid=None, name=None)
    return replace(bare, mig=MigState(capable=True), gpu_instances=())


def whole(number: int, name: str = H100) -> Device:
    return Device("gpu", type_name(name), (f"/dev/nvidia{number}",), f"GPU-{number}", f"0000:{number + 1:02x}:00.0")


def part(number: int, place: int, profile: str, name: str = H100) -> Device:
    """A slice of GPU *number*."""
    kind = mig_type_name(name, f"{name} MIG {profile}", None)
    assert kind is not None
    caps = tuple(f"/dev/nvidia-caps/nvidia-cap{100 * number + 2 * place + 10 + one}" for one in (0, 1))
    address = f"0000:{number + 1:02x}:00.0"
    return Device("mig", kind, (f"/dev/nvidia{number}", *caps), f"MIG-{number}-{place}", address)
