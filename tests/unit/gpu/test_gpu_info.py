# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as Ansible runs it: what it returns, that it documents all of it, and that absence never fails."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.gpu import model
from ansible_collections.hpc.compute.plugins.modules import gpu_info
from unit.gpu.machine_trees import expand, load


def run(capsys: pytest.CaptureFixture[str], arguments: dict[str, object], *, check: bool = False) -> dict[str, Any]:
    with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit) as ended:
        gpu_info.main()
    assert ended.value.code == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.fixture
def without_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.usefixtures("without_pynvml")
def test_a_dgx_without_pynvml(check: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(capsys, {"root": str(expand(load("dgx-h100"), tmp_path))}, check=check)
    assert result["changed"] is False
    assert len(result["gpus"]) == 8
    assert result["gpus"] == result["inventory"]["gpus"]
    assert (result["nvswitch_count"], result["driver_version"]) == (4, "550.163.01")
    assert [problem["code"] for problem in result["problems"]] == ["pynvml_missing"]
    assert model.Inventory.from_dict(result["inventory"]).nvswitch_count == 4


@pytest.mark.usefixtures("without_pynvml")
def test_a_machine_without_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(capsys, {"root": str(expand(load("virtual-machine"), tmp_path))})
    assert (result["gpus"], result["problems"], result["driver_version"]) == ([], [], None)


def test_the_running_machine_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, {})["inventory"]["schema"] == model.INVENTORY_SCHEMA


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({"path": "/"}), pytest.raises(SystemExit) as ended:
        gpu_info.main()
    assert ended.value.code == 1
    assert "path" in json.loads(capsys.readouterr().out)["msg"]


def test_every_returned_value_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    documentation = yaml.safe_load(gpu_info.RETURN)
    result = run(capsys, {})
    assert set(documentation) == set(result) - {"changed", "invocation"}
    gpus = documentation["gpus"]["contains"]
    instances = gpus["gpu_instances"]["contains"]
    for contains, value in (
        (gpus, model.Gpu),
        (instances, model.GpuInstance),
        (instances["compute_instances"]["contains"], model.ComputeInstance),
        (documentation["problems"]["contains"], model.Problem),
    ):
        assert set(contains) == {field.name for field in dataclasses.fields(value)}


def test_ansible_packs_all_the_module_needs(tmp_path: Path) -> None:
    """Ansible ships a module with the files it imports, found by reading it: a relative import it misses fails here."""
    collections = Path(gpu_info.__file__).parents[5]
    ansible = Path(sys.executable).with_name("ansible")
    done = subprocess.run(
        [
            ansible,
            "localhost",
            "-m",
            "hpc.compute.gpu_info",
            "-a",
            f"root={expand(load('dgx-h100'), tmp_path / 'root')}",
        ],
        env={
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_HOME": str(tmp_path / "home"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"nvswitch_count": 4' in done.stdout


def test_the_engine_needs_no_ansible() -> None:
    """It runs from a shell and a boot unit: nothing in it may import Ansible."""
    root = Path(importlib.import_module(model.__name__).__file__ or "").parents[1]
    for path in [*root.glob("gpu/*.py"), root / "mig/catalog.py", root / "mig/boards.py"]:
        assert "ansible" not in {
            line.split()[1].split(".")[0] for line in path.read_text().splitlines() if _imports(line)
        }


def _imports(line: str) -> bool:
    return line.startswith(("import ", "from "))
