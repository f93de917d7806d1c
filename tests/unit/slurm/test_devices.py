# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.cpus import CpuTopology
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import (
    devices,
    file_key,
    mig_type_name,
    type_name,
)
from unit.slurm.machines import A100, H100, gpu, machine, undriven

_MAX_Q = "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition"


@pytest.mark.parametrize(
    ("board", "profile", "whole", "part"),
    [
        (A100, "1g.5gb", "nvidia_a100-sxm4-40gb", "nvidia_a100_1g.5gb"),
        (A100, "1g.5gb+me", "nvidia_a100-sxm4-40gb", "nvidia_a100_1g.5gb+me"),
        (A100, "1c.3g.20gb", "nvidia_a100-sxm4-40gb", "nvidia_a100_1c.3g.20gb"),
        ("NVIDIA A100 80GB PCIe", "1g.10gb", "nvidia_a100_80gb_pcie", "nvidia_a100_80gb_pcie_1g.10gb"),
        (H100, "1g.10gb", "nvidia_h100_80gb_hbm3", "nvidia_h100_80gb_hbm3_1g.10gb"),
        (
            "NVIDIA RTX PRO 6000 Blackwell Server Edition",
            "1g.24gb-me",
            "nvidia_rtx_pro_6000_blackwell_server_edition",
            "nvidia_rtx_pro_6000_blackwell_server_edition_1g.24gb-me",
        ),
    ],
)
def test_type_names(board: str, profile: str, whole: str, part: str) -> None:
    assert type_name(board) == whole
    assert mig_type_name(board, f"{board} MIG {profile}", None) == part


def test_a_name_too_long_for_slurmd_is_made_of_slices_and_memory() -> None:
    name = f"{_MAX_Q} MIG 1g.24gb+me"
    assert len(name) > 63
    assert mig_type_name(_MAX_Q, name, 24125) == "nvidia_rtx_pro_6000_blackwell_max_1g.24gb"
    assert mig_type_name(_MAX_Q, f"{_MAX_Q} MIG 1c.2g.48gb", 48640) == "nvidia_rtx_pro_6000_blackwell_max_1c.2g.48gb"
    assert mig_type_name(_MAX_Q, f"{_MAX_Q} MIG 2c.2g.48gb", 48640) == "nvidia_rtx_pro_6000_blackwell_max_2g.48gb"
    assert mig_type_name(_MAX_Q, name, None) is None


def test_a_name_that_says_nothing_has_no_type() -> None:
    assert mig_type_name(H100, None, 9984) is None
    assert mig_type_name(H100, H100, 9984) is None


def test_letters_beyond_ascii_stay() -> None:
    assert type_name("NVIDIA \u0130X") == "nvidia_\u0130x"


def test_whole_and_cut_gpus_in_nvml_order() -> None:
    inventory = machine(gpu(1, profiles=("3g.40gb", "1g.10gb")), gpu(0))
    found = devices(inventory)
    assert [one.type.removeprefix("nvidia_h100_80gb_hbm3") for one in found] == ["", "_3g.40gb", "_1g.10gb"]
    assert [one.kind for one in found] == ["gpu", "mig", "mig"]
    assert found[0].links == (-1, 0)
    assert found[1].links == ()
    assert found[1].files == ("/dev/nvidia1", "/dev/nvidia-caps/nvidia-cap110", "/dev/nvidia-caps/nvidia-cap111")
    assert found[1].unique_id == "MIG-1-0"
    assert found[0].uuid == "GPU-0"
    assert found[0].unique_id is None, "slurmd keeps UUIDs of slices only"


def test_files_are_by_minor_not_by_index() -> None:
    (found,) = devices(machine(gpu(0, minor=3)))
    assert found.file == "/dev/nvidia3"


def test_links_count_by_index() -> None:
    first = replace(gpu(0), nvlink_peers={"0000:03:00.0": 4})
    found = devices(machine(first, gpu(1), gpu(2)))
    assert [one.links for one in found] == [(-1, 0, 4), (0, -1, 0), (0, 0, -1)]


def test_cores_need_a_topology_and_a_readable_affinity() -> None:
    topology = CpuTopology({cpu: cpu // 2 for cpu in range(8)})
    (known,) = devices(machine(gpu(0)), topology)
    assert known.cores == "0-1"
    (odd,) = devices(machine(replace(gpu(0), cpu_affinity="?")), topology)
    assert odd.cores is None
    (none,) = devices(machine(replace(gpu(0), cpu_affinity=None)), topology)
    assert none.cores is None
    (without,) = devices(machine(gpu(0)))
    assert without.cores is None


def test_a_gpu_without_driver_is_no_device() -> None:
    assert devices(machine(undriven(gpu(0)))) == []
    assert devices(machine(replace(gpu(0), minor=None))) == []
    assert devices(machine(replace(gpu(0), name=None))) == []


def test_mig_on_and_empty_is_listed_whole_as_slurmd_does() -> None:
    (found,) = devices(machine(gpu(0, profiles=())))
    assert (found.kind, found.type) == ("gpu", "nvidia_h100_80gb_hbm3")


def test_slurmd_stops_at_a_gap_of_mig_indices() -> None:
    cut = gpu(0, profiles=("1g.10gb", "1g.10gb", "1g.10gb"))
    first, second, third = cut.gpu_instances
    moved = replace(third, compute_instances=(replace(third.compute_instances[0], mig_index=3),))
    assert len(devices(machine(replace(cut, gpu_instances=(first, second, moved))))) == 2
    lost = replace(second, compute_instances=(replace(second.compute_instances[0], mig_index=None),))
    assert len(devices(machine(replace(cut, gpu_instances=(first, lost, third))))) == 1


def test_a_slice_without_device_files_is_no_device() -> None:
    cut = gpu(0, profiles=("1g.10gb", "2g.20gb"))
    first, second = cut.gpu_instances
    bare = replace(first, compute_instances=(replace(first.compute_instances[0], device_files=()),))
    (found,) = devices(machine(replace(cut, gpu_instances=(bare, second))))
    assert found.type.endswith("_2g.20gb")


def test_a_nameless_slice_is_named_by_its_profile() -> None:
    cut = gpu(0, profiles=("1g.10gb",))
    (one,) = cut.gpu_instances
    nameless = replace(one, compute_instances=(replace(one.compute_instances[0], name=None),))
    (found,) = devices(machine(replace(cut, gpu_instances=(nameless,))))
    assert found.type == "nvidia_h100_80gb_hbm3_1g.10gb"
    unknown = replace(nameless, profile=None)
    (listed,) = devices(machine(replace(cut, gpu_instances=(unknown,))))
    assert listed.kind == "gpu", "nothing of it can be offered, so slurmd lists the GPU"


def test_files_sort_by_number() -> None:
    found = devices(machine(*(gpu(index) for index in range(11))))
    found.reverse()
    assert [one.file for one in sorted(found, key=file_key)][-2:] == ["/dev/nvidia9", "/dev/nvidia10"]
