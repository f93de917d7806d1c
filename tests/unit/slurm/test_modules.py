# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two modules as Ansible runs them, short of the connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory, Problem
from ansible_collections.hpc.compute.plugins.module_utils.slurm.stored import read_stored
from ansible_collections.hpc.compute.plugins.modules import slurm_gres, slurm_node_info
from unit.slurm.machines import A100, gpu, machine, undriven

_H100 = "nvidia_h100_80gb_hbm3"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run slurm_gres on *inventory*; its result, with ``failed`` true or false."""

    # Other tests load the control machine's half of Ansible, which would take the warnings for itself.
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)

    def run_module(inventory: Inventory, *, check: bool = False, **params: Any) -> dict[str, Any]:
        monkeypatch.setattr(slurm_gres, "read_inventory", lambda root: inventory)
        params.setdefault("path", str(tmp_path / "gres.conf"))
        return _result(slurm_gres.main, capsys, {**params, "_ansible_check_mode": check, "_ansible_diff": True})

    return run_module


def _result(main: Callable[[], None], capsys: pytest.CaptureFixture[str], params: dict[str, Any]) -> dict[str, Any]:
    with patch_module_args(params), pytest.raises(SystemExit):
        main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    result.setdefault("failed", False)
    return result


def _command(folder: Path, script: str) -> str:
    path = folder / "slurmd"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_writes_once(run: Run, tmp_path: Path) -> None:
    cut = machine(gpu(0), gpu(1, profiles=("1g.10gb",)))
    first = run(cut, mode="0640")
    assert first["changed"]
    assert first["gres"] == f"gpu:{_H100}:1,gpu:{_H100}_1g.10gb:1"
    text = (tmp_path / "gres.conf").read_text()
    assert first["diff"][0]["before"] == ""
    assert first["diff"][0]["after"] == text
    assert (tmp_path / "gres.conf").stat().st_mode & 0o777 == 0o640
    second = run(cut, mode="0640")
    assert not second["changed"]
    assert second["diff"] == []
    third = run(cut, mode="0600")
    assert third["changed"]
    assert [entry["after"] for entry in third["diff"]] == [{"mode": "0600"}]


def test_results_are_complete(run: Run) -> None:
    result = run(machine(gpu(0)))
    assert result["devices"] == [
        {
            "kind": "gpu",
            "type": _H100,
            "files": ["/dev/nvidia0"],
            "uuid": "GPU-0",
            "pci_address": "0000:01:00.0",
            "cores": result["devices"][0]["cores"],
            "links": [-1],
        }
    ]
    assert result["bindings"] == [{"label": _H100, "type": _H100, "file": "/dev/nvidia0"}]
    assert result["gres_types"] == ["gpu"]
    assert result["accounting_tres"] == ["gres/gpu", f"gres/gpu:{_H100}"]
    assert (result["verified"], result["problems"]) == (False, [])


def test_check_mode_writes_nothing(run: Run, tmp_path: Path) -> None:
    result = run(machine(gpu(0)), check=True, path=str(tmp_path / "absent/gres.conf"))
    assert result["changed"]
    assert "AutoDetect=nvml" in result["diff"][0]["after"]
    assert list(tmp_path.iterdir()) == []
    run(machine(gpu(0)))
    assert run(machine(), check=True)["changed"]
    assert "AutoDetect=nvml" in (tmp_path / "gres.conf").read_text()
    assert not run(machine(gpu(0)), check=True)["changed"]


def test_no_gpu(run: Run, tmp_path: Path) -> None:
    result = run(machine())
    assert (result["changed"], result["gres"]) == (True, "")
    assert "No GPU was found" in (tmp_path / "gres.conf").read_text()


def test_unknown_type_is_refused_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    result = run(machine(gpu(0)), gres="gpu:quadro:1")
    assert result["failed"]
    assert "type quadro would match no device" in result["msg"]
    assert list(tmp_path.iterdir()) == []


def test_gpu_without_driver(run: Run, tmp_path: Path) -> None:
    problem = Problem("driver_missing", "GPU 0000:01:00.0 is present but has no kernel driver", "0000:01:00.0")
    bare = machine(undriven(gpu(0)), problems=(problem,))
    result = run(bare)
    assert result["failed"]
    assert result["msg"] == problem.message
    assert result["problems"][0]["code"] == "driver_missing"
    assert list(tmp_path.iterdir()) == []
    planned = run(bare, check=True)
    assert (planned["failed"], planned["changed"], planned["gres"]) == (False, True, "")
    assert problem.message in str(planned["warnings"])
    assert run(bare, on_problem="ignore")["gres"] == ""


def test_mig_without_instances(run: Run) -> None:
    problem = Problem("mig_without_instances", "GPU 0000:01:00.0 has MIG on but no instance", "0000:01:00.0")
    result = run(machine(gpu(0, profiles=()), problems=(problem,)))
    assert result["failed"]
    assert result["msg"] == problem.message


def test_missing_directory(run: Run, tmp_path: Path) -> None:
    result = run(machine(), path=str(tmp_path / "absent/gres.conf"))
    assert result["failed"]
    assert "absent" in result["msg"]
    assert "install slurmd or make it" in result["msg"]


def test_unreadable_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gres.conf").write_bytes(b"\xff\xfe")
    assert "expected to be a readable text file" in run(machine())["msg"]
    assert "expected to be a readable text file" in run(machine(), path=str(tmp_path))["msg"]


def test_verified(run: Run, tmp_path: Path) -> None:
    line = f"GRES[gpu] Type:{_H100} Count:1 Cores(2):0-1  Links:-1 Flags:HAS_FILE File:/dev/nvidia0 UniqueId:(null)"
    slurmd = _command(tmp_path, f"echo 'slurmd-n1: Final merged GRES list:' >&2; echo 'slurmd-n1:     {line}' >&2")
    assert run(machine(gpu(0)), verify=True, slurmd=slurmd)["verified"]
    result = run(machine(gpu(0), gpu(1)), verify=True, slurmd=slurmd)
    assert result["failed"]
    assert f"expected type {_H100} with UUID (none) at /dev/nvidia1, slurmd does not offer it" in result["msg"]
    assert f"Expected Gres=gpu:{_H100}:2 for this node in slurm.conf" in result["msg"]
    assert not run(machine(gpu(0)), verify=True, slurmd=slurmd, check=True)["verified"]


def test_verify_by_node_name(run: Run, tmp_path: Path) -> None:
    slurmd = _command(tmp_path, f'echo "$@" > {tmp_path}/asked')
    run(machine(), verify=True, slurmd=slurmd, node_name="n1")
    assert (tmp_path / "asked").read_text() == "-G -v -N n1\n"


def test_slurmd_missing(run: Run) -> None:
    result = run(machine(), verify=True, slurmd="no-slurmd")
    assert result["failed"]
    assert "expected the command no-slurmd, found none: install Debian's package slurmd" in result["msg"]


def test_slurmd_failing(run: Run, tmp_path: Path) -> None:
    slurmd = _command(tmp_path, "echo one >&2; echo 'slurmd: fatal: two' >&2; exit 3")
    assert "failed with exit code 3: fatal: two" in run(machine(), verify=True, slurmd=slurmd)["msg"]


def test_munge_not_running(run: Run, tmp_path: Path) -> None:
    recorded = Path(__file__).parent / "recorded/no_munge.txt"
    slurmd = _command(tmp_path, f"cat {recorded} >&2; exit 1")
    assert "munged is not running" in run(machine(), verify=True, slurmd=slurmd)["msg"]


def test_node_info(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    slurmd = _command(tmp_path, f"cat {Path(__file__).parent}/recorded/hardware.txt")
    result = _result(slurm_node_info.main, capsys, {"slurmd": slurmd})
    assert result["available"]
    assert (result["cpus"], result["sockets"], result["real_memory"]) == (2, 1, 24105)
    assert result["node_line"].startswith("NodeName=vm CPUs=2 ")


def test_node_info_before_installation(capsys: pytest.CaptureFixture[str]) -> None:
    result = _result(slurm_node_info.main, capsys, {"slurmd": "no-slurmd"})
    assert (result["failed"], result["available"], result["cpus"], result["node_line"]) == (False, False, None, "")


def test_node_info_of_a_failing_slurmd(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = _result(slurm_node_info.main, capsys, {"slurmd": _command(tmp_path, "echo broken >&2; exit 1")})
    assert result["failed"]
    assert "failed with exit code 1: broken" in result["msg"]


def test_static_mode_writes_conf_map_and_settings(run: Run, tmp_path: Path) -> None:
    cut = machine(gpu(0), gpu(1, A100, profiles=("1g.5gb",)))
    wishes = {"autodetect": "off", "types": {"*_1g.5gb": "a100-1g.5gb"}, "store": True, "root": str(tmp_path)}
    planned = run(cut, check=True, **wishes)
    assert planned["changed"]
    assert len(planned["diff"]) == 3
    assert list(tmp_path.iterdir()) == []
    first = run(cut, **wishes)
    assert (first["failed"], first["changed"]) == (False, True)
    assert first["gres"] == f"gpu:a100-1g.5gb:1,gpu:{_H100}:1"
    assert "Type=a100-1g.5gb MultipleFiles=/dev/nvidia1," in (tmp_path / "gres.conf").read_text()
    uuids = Path(first["uuid_map"])
    assert uuids == tmp_path / "run/hpc-compute/gpu-uuids"
    assert "\n0 MIG-1-0 /dev/nvidia1," in uuids.read_text()
    assert uuids.stat().st_mode & 0o777 == 0o644
    stored = read_stored(tmp_path)
    assert stored is not None
    assert (stored.mode.autodetect, stored.mode.types) == ("off", wishes["types"])
    assert (stored.path, stored.gres) == (str(tmp_path / "gres.conf"), first["gres"])
    assert not run(cut, **wishes)["changed"]
    uuids.unlink()
    again = run(cut, **wishes)
    assert again["changed"], "the map does not outlive a boot"
    empty = run(machine(), **wishes)
    assert empty["changed"]
    assert not uuids.exists()


def test_detection_leaves_no_map_unless_asked(run: Run, tmp_path: Path) -> None:
    run(machine(gpu(0)), root=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["gres.conf"]
    run(machine(gpu(0)), root=str(tmp_path), store=True)
    uuids = tmp_path / "run/hpc-compute/gpu-uuids"
    assert "0 GPU-0 /dev/nvidia0" in uuids.read_text()
    run(machine(gpu(0, A100)), root=str(tmp_path))
    assert "\n0 GPU-0 " in uuids.read_text()
    run(machine(gpu(1)), root=str(tmp_path))
    assert "GPU-1 /dev/nvidia1" in uuids.read_text(), "one that is there follows the devices"


def test_a_map_that_is_no_text_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run/hpc-compute/gpu-uuids").mkdir(parents=True)
    result = run(machine(gpu(0)), root=str(tmp_path), autodetect="off")
    assert result["failed"]
    assert "gpu-uuids was expected to be a readable text file" in result["msg"]


def test_sharing(run: Run, tmp_path: Path) -> None:
    result = run(machine(gpu(0)), shards={"*h100*": "8"})
    assert result["gres"] == f"gpu:{_H100}:1,shard:8"
    assert result["accounting_tres"] == ["gres/gpu", f"gres/gpu:{_H100}", "gres/shard"]
    result = run(machine(gpu(0)), mps={"*": "much"})
    assert result["failed"]
    assert "mps of *: expected a number for each GPU, found 'much'" in result["msg"]


def test_a_link_stays_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "gres.conf").symlink_to("shared/gres.conf")
    first = run(machine(gpu(0)), mode="0640")
    assert first["changed"]
    assert (tmp_path / "gres.conf").is_symlink()
    assert "AutoDetect=nvml" in (tmp_path / "shared/gres.conf").read_text()
    assert (tmp_path / "shared/gres.conf").stat().st_mode & 0o777 == 0o640
    assert not run(machine(gpu(0)), mode="0640")["changed"]
