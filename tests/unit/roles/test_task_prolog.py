# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The TaskProlog with every combination of variables and device files that the real Slurm was seen to give it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.stored import Stored

_SCRIPT = Path(__file__).resolve().parents[3] / "roles/slurm_compute/files/libexec/task-prolog"
_UUIDS = ("GPU-big", "MIG-a", "MIG-b", "MIG-c")


class _Node:
    """Four devices: a GPU and three slices of another, of which two share a GPU instance."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.map = folder / "gpu-uuids"
        self.settings = folder / "settings.json"
        dev = folder / "dev"
        self.files = [
            [dev / "nvidia0"],
            [dev / "nvidia1", dev / "cap1", dev / "cap2"],
            [dev / "nvidia1", dev / "cap1", dev / "cap3"],
            [dev / "nvidia1", dev / "cap10", dev / "cap11"],
        ]
        dev.mkdir()
        lines = [
            f"{place} {uuid} {','.join(map(str, files))}\n"
            for place, (uuid, files) in enumerate(zip(_UUIDS, self.files, strict=True))
        ]
        self.map.write_text("# a comment\n" + "".join(lines))

    def run(
        self, visible: str | None, own: tuple[int, ...] = (0, 1, 2, 3), script: Path = _SCRIPT, mps: str = ""
    ) -> str:
        """What the script says to Slurm. *own*: devices whose files may be opened; for others they are not there."""
        for path in {path for files in self.files for path in files}:
            path.unlink(missing_ok=True)
        for place in own:
            for path in self.files[place]:
                path.touch()
        done = subprocess.run(
            [script],
            env={
                "PATH": os.environ["PATH"],
                "HPC_COMPUTE_GPU_UUIDS": str(self.map),
                "HPC_COMPUTE_GPU_SETTINGS": str(self.settings),
                **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}),
                **({"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": mps} if mps else {}),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout


@pytest.fixture
def node(tmp_path: Path) -> _Node:
    return _Node(tmp_path)


@pytest.mark.parametrize("visible", [None, "", "NoDevFiles", "MIG-a,MIG-c", "GPU-big"])
def test_nothing_to_do(node: _Node, visible: str | None) -> None:
    assert node.run(visible) == ""


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [("0", "GPU-big"), ("2", "MIG-b"), ("3,1", "MIG-c,MIG-a"), ("0,MIG-z", "GPU-big,MIG-z")],
)
def test_places_where_nothing_is_limited(node: _Node, visible: str, uuids: str) -> None:
    assert node.run(visible) == f"export CUDA_VISIBLE_DEVICES={uuids}\n"


@pytest.mark.parametrize(
    ("visible", "own", "uuids"),
    [
        ("0", (0,), "GPU-big"),
        ("0", (2,), "MIG-b"),  # what a task of "--gpus-per-task=1" sees, whichever device it has
        ("0", (3,), "MIG-c"),
        ("0,1", (1, 3), "MIG-a,MIG-c"),
        ("0,1,2", (1, 2, 3), "MIG-a,MIG-b,MIG-c"),
        ("0,1,2,3", (0, 1, 2, 3), ",".join(_UUIDS)),
        ("0,MIG-a", (0, 1), "GPU-big,MIG-a"),
    ],
)
def test_files_decide_where_devices_are_limited(node: _Node, visible: str, own: tuple[int, ...], uuids: str) -> None:
    assert node.run(visible, own) == f"export CUDA_VISIBLE_DEVICES={uuids}\n"


@pytest.mark.parametrize(
    ("visible", "own", "reason"),
    [
        ("4", (0, 1, 2, 3), "Slurm gave device 4, which is not in"),
        ("0", (), "0 may be opened"),
        ("0", (1, 2), "Slurm gave 1 devices, and of those in"),
    ],
)
def test_contradictions_end_without_a_device(node: _Node, visible: str, own: tuple[int, ...], reason: str) -> None:
    said = node.run(visible, own).splitlines()
    assert said[0].startswith("print task_prolog: ")
    assert reason in said[0]
    assert said[1:] == ["export CUDA_VISIBLE_DEVICES="]


def test_a_missing_map_matters_in_static_mode_only(node: _Node) -> None:
    node.map.unlink()
    assert node.run("0") == ""
    node.settings.write_text('{\n  "autodetect": "nvml",\n}\n')
    assert node.run("0") == ""
    node.settings.write_text('{\n  "autodetect": "off",\n}\n')
    assert "is missing, which gpu-layout.service makes" in node.run("0")
    assert node.run(None) == ""


def test_an_empty_map_gives_no_device(node: _Node) -> None:
    node.map.write_text("")
    assert "which is not in" in node.run("0")


@pytest.mark.parametrize(
    ("visible", "said"),
    [("2", "export CUDA_VISIBLE_DEVICES=MIG-b\n"), ("9", "export CUDA_VISIBLE_DEVICES=\n"), ("MIG-z", ""), (None, "")],
)
def test_the_sites_own_comes_last_and_sees_what_the_task_will(node: _Node, visible: str | None, said: str) -> None:
    script = node.folder / "task-prolog"
    shutil.copy(_SCRIPT, script)
    site = node.folder / "site prolog"
    site.write_text('#!/bin/sh\necho "export SITE=*${CUDA_VISIBLE_DEVICES-none}"\n')
    site.chmod(0o755)
    Path(f"{script}.next").symlink_to(site)
    seen = said.strip().rpartition("=")[2] if said else (visible or "none")
    told = node.run(visible, script=script)
    assert told.endswith(f"{said}export SITE=*{seen}\n")
    assert "can't be run" not in told
    site.unlink()
    told = node.run(visible, script=script)
    assert f"print task_prolog: {site} can't be run on this node" in told
    assert said in told


def test_the_sites_own_may_fail_the_task(node: _Node) -> None:
    script = node.folder / "task-prolog"
    shutil.copy(_SCRIPT, script)
    Path(f"{script}.next").symlink_to("/bin/false")
    with pytest.raises(subprocess.CalledProcessError):
        node.run("0", script=script)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ((0,), "export CUDA_VISIBLE_DEVICES=GPU-big\n"),  # device access is limited
        ((0, 4), "which of 2 GPUs with MPS this share is of"),
        ((1,), "which of 0 GPUs with MPS this share is of"),
    ],
)
def test_a_share_by_mps_is_of_the_gpu_that_may_be_opened(node: _Node, own: tuple[int, ...], said: str) -> None:
    node.files.append([node.folder / "dev/nvidia9"])
    node.map.write_text(node.map.read_text() + f"4 GPU-other {node.files[4][0]}\n")
    conf = node.folder / "gres.conf"
    lines = [f"Name=mps Count=100 File={node.files[place][0]} Flags=nvidia_gpu_env" for place in (0, 4)]
    conf.write_text("\n".join(["AutoDetect=nvml", *lines, ""]))
    node.settings.write_text(Stored(path=str(conf)).text())
    assert said in node.run(None, own, mps="25")
    assert node.run("MIG-a", own, mps="25") == "", "Slurm told"
    node.map.unlink()
    assert node.run(None, own, mps="25") == "", "gres.conf is not ours"
