# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Device files of MIG instances come from the driver's own list, by device minor."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.hpc.compute.plugins.module_utils.gpu.devfiles import (
    MIG_MINORS,
    gpu_files,
    read_minors,
    with_files,
)
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import ComputeInstance, GpuInstance, Placement
from unit.gpu.machine_trees import write

ADDRESS = "0000:1b:00.0"
TEXT = """config 1
monitor 2
gpu0/gi1/access 12
gpu0/gi1/ci0/access 13
gpu3/gi1/access 417
gpu3/gi1/ci0/access 418
gpu3/gi1/ci1/access 419
"""
INSTANCES = (
    GpuInstance(1, 9, "3g.40gb", Placement(0, 4), 40448, (ComputeInstance(0, 0), ComputeInstance(1, 0))),
    GpuInstance(2, 9, "3g.40gb", Placement(4, 4), 40448),
)


def with_nodes(root: Path, *names: str) -> Path:
    for name in names:
        write(root / "dev" / name)
    return root


def test_files_are_those_of_the_device_minor(tmp_path: Path) -> None:
    write(tmp_path / MIG_MINORS, TEXT)
    with_nodes(tmp_path, "nvidia-caps/nvidia-cap417", "nvidia-caps/nvidia-cap418", "nvidia-caps/nvidia-cap419")
    instances, problems = with_files(INSTANCES, 3, read_minors(tmp_path), ADDRESS, tmp_path)
    assert problems == []
    assert [one.device_files for one in instances[0].compute_instances] == [
        ("/dev/nvidia3", "/dev/nvidia-caps/nvidia-cap417", "/dev/nvidia-caps/nvidia-cap418"),
        ("/dev/nvidia3", "/dev/nvidia-caps/nvidia-cap417", "/dev/nvidia-caps/nvidia-cap419"),
    ]
    assert instances[1] == INSTANCES[1]


def test_numbered_files_that_are_not_there_are_kept_and_told_once(tmp_path: Path) -> None:
    write(tmp_path / MIG_MINORS, TEXT)
    with_nodes(tmp_path, "nvidia-caps/nvidia-cap418")
    instances, (problem,) = with_files(INSTANCES, 3, read_minors(tmp_path), ADDRESS, tmp_path)
    assert instances[0].compute_instances[0].device_files[1] == "/dev/nvidia-caps/nvidia-cap417"
    assert (problem.code, problem.pci_address) == ("capability_files_missing", ADDRESS)
    assert problem.message.count("nvidia-cap417") == 1
    assert "nvidia-cap419" in problem.message
    assert "nvidia-cap418" not in problem.message
    assert "nvidia-modprobe" in problem.message


def test_instances_that_the_list_lacks_have_no_files(tmp_path: Path) -> None:
    write(tmp_path / MIG_MINORS, TEXT)
    with_nodes(tmp_path, "nvidia-caps/nvidia-cap12", "nvidia-caps/nvidia-cap13")
    instances, (problem,) = with_files(INSTANCES, 0, read_minors(tmp_path), ADDRESS, tmp_path)
    assert [one.device_files for one in instances[0].compute_instances] == [
        ("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia-caps/nvidia-cap13"),
        (),
    ]
    assert problem.code == "capability_files_missing"
    assert "expected gpu0/gi1/ci1/access in" in problem.message


def test_a_missing_list_is_told_once_and_not_for_each_instance(tmp_path: Path) -> None:
    minors = read_minors(tmp_path)
    assert minors.problem is not None
    assert minors.problem.code == "capability_files_missing"
    assert str(tmp_path / MIG_MINORS) in minors.problem.message
    assert "No such file" in minors.problem.message
    instances, problems = with_files(INSTANCES, 0, minors, ADDRESS, tmp_path)
    assert problems == []
    assert instances == INSTANCES


def test_lines_that_are_not_understood_hide_no_others(tmp_path: Path) -> None:
    write(tmp_path / MIG_MINORS, TEXT + "\nwhat is this\ngpu9/gi1/access many\n")
    minors = read_minors(tmp_path)
    assert minors.by_name["gpu3/gi1/ci1/access"] == 419
    assert minors.problem is not None
    assert "found 'what is this' and 1 more" in minors.problem.message


def test_the_file_of_a_whole_gpu(tmp_path: Path) -> None:
    files, (problem,) = gpu_files(5, ADDRESS, tmp_path)
    assert files == ("/dev/nvidia5",)
    assert str(tmp_path / "dev/nvidia5") in problem.message
    with_nodes(tmp_path, "nvidia5")
    assert gpu_files(5, ADDRESS, tmp_path) == (files, [])
