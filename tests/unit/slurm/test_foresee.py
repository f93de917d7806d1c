# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Slurm would make of a layout, told before it is applied, is what it makes of it afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.gpu.inventory import read_inventory
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply import apply, look
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_prepare import Options
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import parse_entries
from ansible_collections.hpc.compute.plugins.module_utils.slurm.devices import devices
from ansible_collections.hpc.compute.plugins.module_utils.slurm.foresee import Offer, foreseen, misfit
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import GresMode, plan_gres
from ansible_collections.hpc.compute.plugins.modules import mig_layout
from unit.mig.apply_machine import Machine, machine

_CUTS: dict[str, list[dict[str, Any]]] = {
    "slices": [{"devices": [0], "mig-enabled": True, "mig-devices": {"1g.10gb": 2, "3g.40gb": 1}}],
    "media": [{"devices": [0], "mig-enabled": True, "mig-devices": {"1g.10gb+me": 1, "1g.20gb": 2}}],
    "parts": [{"devices": [0], "mig-enabled": True, "mig-devices": {"1c.3g.40gb": 3, "2c.4g.40gb": 2}}],
    "whole": [{"devices": "all", "mig-enabled": False}],
    "both": [
        {"devices": [0], "mig-enabled": False},
        {"devices": [1], "mig-enabled": True, "mig-devices": {"1g.5gb": 7}},
    ],
}
_STATIC = GresMode("off", {"*_1g.10gb": "small", "*h100_80gb_hbm3": "h100"})


def _prepared(emulated: Machine, cut: list[dict[str, Any]]) -> Any:
    return look(parse_entries(cut), Options(), emulated.host)


@pytest.mark.parametrize("start", ["h100-80=3g.40gb@4:2g.20gb@2,a100-40", "h100-80,a100-40=7g.40gb"])
@pytest.mark.parametrize("name", _CUTS)
def test_types_and_counts_come_as_foreseen(start: str, name: str, tmp_path: Path) -> None:
    with machine(start, tmp_path) as emulated:
        before = _prepared(emulated, _CUTS[name])
        told = plan_gres(foreseen(before))
        assert not apply(parse_entries(_CUTS[name]), Options(), emulated.host).failures
        after = read_inventory(emulated.root, emulated.host.load)
        assert told.gres == plan_gres(after).gres
        assert len(devices(foreseen(before))) == len({one.file for one in devices(foreseen(before))})


@pytest.mark.parametrize(
    ("cut", "offer", "reason"),
    [
        ("slices", Offer(GresMode(), "gpu:nvidia_h100_80gb_hbm3:1,gpu:nvidia_a100-sxm4-40gb:1"), "1g.10gb"),
        ("slices", Offer(GresMode(), "gpu:7"), "gpu:7"),
        ("slices", Offer(_STATIC, "gpu:small:3"), "under the configured names this machine has"),
        ("slices", Offer(GresMode("off", {}, {"shard": {"*a100*": 4}})), "expected whole GPUs only"),
        ("whole", Offer(_STATIC, "gpu:h100:1"), "no entry is left for nvidia_a100-sxm4-40gb"),
    ],
)
def test_what_would_not_fit_is_told(cut: str, offer: Offer, reason: str, tmp_path: Path) -> None:
    with machine("h100-80=2g.20gb@2,a100-40", tmp_path) as emulated:
        told = misfit(_prepared(emulated, _CUTS[cut]), offer)
        assert told is not None
        assert "so none was changed" in told
        assert reason in told


def test_what_fits_or_changes_nothing_is_no_matter(tmp_path: Path) -> None:
    with machine("h100-80=2g.20gb@2,a100-40", tmp_path) as emulated:
        fits = Offer(_STATIC, "gpu:small:2,gpu:nvidia_h100_80gb_hbm3_3g.40gb:1,gpu:nvidia_a100-sxm4-40gb:1")
        assert misfit(_prepared(emulated, _CUTS["slices"]), fits) is None
        assert misfit(_prepared(emulated, _CUTS["whole"]), Offer(_STATIC, "gpu:h100:1", allow_unlisted=True)) is None
        same = [{"devices": [0], "mig-enabled": True, "mig-devices": {"2g.20gb": 1}}]
        assert misfit(_prepared(emulated, same), Offer(GresMode(), "gpu:nonsense:9")) is None, "nothing changes"
        impossible = [{"devices": [0], "mig-enabled": True, "mig-devices": {"7g.80gb": 2}}]
        assert misfit(_prepared(emulated, impossible), Offer(GresMode(), "gpu:9")) is None, "refused for another reason"


def test_mig_without_instances_is_no_device(tmp_path: Path) -> None:
    with machine("h100-80=2g.20gb@2", tmp_path) as emulated:
        empty = [{"devices": [0], "mig-enabled": True, "mig-devices": {}}]
        told = misfit(_prepared(emulated, empty), Offer(GresMode()))
        assert told is not None
        assert "the layout makes no instance there" in told


@pytest.mark.parametrize("check", [True, False])
def test_the_module_refuses_before_a_gpu_is_touched(
    check: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = {"version": "v1", "mig-configs": {"slices": _CUTS["slices"]}}

    def run(**slurm: Any) -> dict[str, Any]:
        given = {"root": str(tmp_path), "_ansible_check_mode": check, "layout": layout, "slurm": slurm}
        with patch_module_args(given), pytest.raises(SystemExit):
            mig_layout.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    with machine("h100-80", tmp_path) as emulated:
        before = emulated.seen()
        told = run(gres="gpu:nvidia_h100_80gb_hbm3:1")
        assert told["failed"]
        assert "so none was changed" in told["msg"]
        assert told["steps"]
        assert emulated.seen() == before
        assert "expected a number for each GPU, found 'x'" in run(shards={"a": "x"})["msg"]
        assert not run(autodetect="off", types={"*_1g.10gb": "small"}).get("failed")
        assert (emulated.seen() == before) is check
