# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``gpu-layout boot`` writes for Slurm, from what the module has stored."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.command.gres import refresh
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import GresMode, GresRefusedError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.static import UUID_MAP
from ansible_collections.hpc.compute.plugins.module_utils.slurm.stored import STORED, Stored
from unit.slurm.machines import A100, gpu, machine

_CUT = machine(gpu(0, A100, profiles=("1g.5gb", "1g.5gb")))
_STATIC = GresMode("off", {"*_1g.5gb": "a100-1g.5gb"})


def _root(root: Path, *, stored: Stored | None = None, gres: str | None = None) -> Path:
    (root / "etc/slurm").mkdir(parents=True)
    if stored is not None:
        (root / STORED).parent.mkdir(parents=True)
        (root / STORED).write_text(stored.text())
    if gres is not None:
        (root / "etc/slurm/slurm.conf").write_text(f"NodeName=n1 Gres={gres}\n")
        (root / "etc/default").mkdir(parents=True)
        (root / "etc/default/slurmd").write_text('SLURMD_OPTIONS="-N n1"\n')
    return root


def test_static_by_slurm_conf(tmp_path: Path) -> None:
    root = _root(tmp_path, stored=Stored(_STATIC), gres="gpu:a100-1g.5gb:2")
    assert refresh(_CUT, root).endswith("etc/slurm/gres.conf written: Gres=gpu:a100-1g.5gb:2")
    assert "Type=a100-1g.5gb MultipleFiles=" in (root / "etc/slurm/gres.conf").read_text()
    assert (root / UUID_MAP).read_text().splitlines()[1].startswith("0 MIG-0-0 /dev/nvidia0,")
    assert refresh(_CUT, root).endswith("is up to date: Gres=gpu:a100-1g.5gb:2")


def test_static_without_slurm_conf_goes_by_what_is_stored(tmp_path: Path) -> None:
    root = _root(tmp_path, stored=Stored(_STATIC, "/etc/hpc-compute/gres.conf", "gpu:a100-1g.5gb:2"))
    refresh(_CUT, root)
    assert "AutoDetect=off" in (root / "etc/hpc-compute/gres.conf").read_text()
    assert not (root / "etc/slurm/gres.conf").exists()


def test_nothing_to_go_by_leaves_all_alone(tmp_path: Path) -> None:
    assert "gres.conf is left alone" in refresh(_CUT, _root(tmp_path, stored=Stored(_STATIC)))
    assert not (tmp_path / UUID_MAP).exists()


def test_detection_without_anything_stored_has_no_map(tmp_path: Path) -> None:
    root = _root(tmp_path, gres="gpu:nvidia_a100_1g.5gb:2")
    refresh(_CUT, root)
    assert "AutoDetect=nvml" in (root / "etc/slurm/gres.conf").read_text()
    assert not (root / UUID_MAP).exists()


def test_other_devices_than_slurm_expects_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = _root(tmp_path, stored=Stored(_STATIC), gres="gpu:a100-1g.5gb:3")
    with pytest.raises(GresRefusedError, match="asks for 3 and there are 2"):
        refresh(_CUT, root)
    assert not (root / "etc/slurm/gres.conf").exists()
    assert not (root / UUID_MAP).exists()


def test_a_link_stays_one(tmp_path: Path) -> None:
    root = _root(tmp_path, gres="gpu:nvidia_a100_1g.5gb:2")
    (root / "etc/slurm/gres.conf").symlink_to("../gres.conf")
    refresh(_CUT, root)
    assert (root / "etc/slurm/gres.conf").is_symlink()
    assert "AutoDetect=nvml" in (root / "etc/gres.conf").read_text()
