# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules slurm_node and slurm_node_gres as Ansible runs them, short of the connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.modules import slurm_node, slurm_node_gres
from unit.slurm.controller import Controller

NODE = "j-a30"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a module with *slurm* as the controller; its result, with ``failed`` true or false."""

    def run_module(
        main: Callable[[], None], slurm: Controller, *, check: bool = False, **params: Any
    ) -> dict[str, Any]:
        def command(_: AnsibleModule, words: list[str]) -> tuple[int, str, str]:
            done = slurm.run(words)
            return done.rc, done.stdout, done.stderr

        monkeypatch.setattr(AnsibleModule, "run_command", command)
        with patch_module_args({**params, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return {"failed": False, **result}

    return run_module


def test_reads(run: Run) -> None:
    slurm = Controller("node_draining", jobs_end=9)
    result = run(slurm_node.main, slurm, name=NODE)
    assert not result["changed"]
    assert (result["drained"], result["ours"], result["registered"]) == (True, True, True)
    assert result["states"] == ["ALLOCATED", "DRAIN"]
    assert [job["number"] for job in result["jobs"]] == ["8_4", "9", "8_3"]
    assert slurm.updates == []


def test_drains_once(run: Run) -> None:
    slurm = Controller()
    words = {"name": NODE, "state": "drained", "reason": "kernel", "wait_for": "jobs"}
    told = run(slurm_node.main, slurm, check=True, **words)
    done = run(slurm_node.main, slurm, **words)
    assert told["diff"] == done["diff"]
    assert done["diff"]["after"] == {"drained": True, "reason": "hpc.compute: kernel"}
    assert told["changed"]
    assert done["changed"]
    assert not run(slurm_node.main, slurm, **words)["changed"]
    assert len(slurm.updates) == 1
    assert run(slurm_node.main, slurm, name=NODE, state="resumed")["changed"]
    assert len(slurm.updates) == 2


def test_respects_the_drain_of_somebody_else(run: Run) -> None:
    slurm = Controller("node_drained")
    slurm.node["reason"] = "fan broken"
    result = run(slurm_node.main, slurm, name=NODE, state="resumed")
    assert not result["changed"]
    assert "fan broken" in result["note"]


def test_a_wait_that_is_too_long_says_for_which_jobs(run: Run) -> None:
    slurm = Controller(jobs_end=9)
    result = run(slurm_node.main, slurm, name=NODE, state="drained", reason="x", wait_for="jobs", timeout=0)
    assert result["failed"]
    assert result["changed"]  # it is drained now
    assert len(result["jobs"]) == 3


def test_waits_for_a_registration(run: Run) -> None:
    assert not run(slurm_node.main, Controller(), name=NODE, wait_for="registered")["failed"]
    result = run(slurm_node.main, Controller("node_invalid"), name=NODE, wait_for="registered", timeout=0)
    assert result["failed"]
    assert "lower than configured" in result["msg"]


def test_a_slurm_that_refuses_is_a_failure(run: Run) -> None:
    slurm = Controller()
    slurm.refuses = "slurm_load_node error: Access denied"
    result = run(slurm_node.main, slurm, name=NODE)
    assert result["failed"]
    assert "Access denied" in result["msg"]
    result = run(slurm_node.main, Controller(), name=NODE, wait_for="registered", gres="gpu:", timeout=0)
    assert result["failed"]


def test_publishes_what_is_common(run: Run, tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("NodeName=a Gres=gpu:x:3,gpu:y:1\n")
    slurm = Controller()
    words = {"path": str(conf), "nodes": {"a": "gpu:x:1,gpu:z:1"}, "reconfigure": True}
    result = run(slurm_node_gres.main, slurm, common_with={"a": "gpu:x:3,gpu:y:1"}, **words)
    assert result["changed"]
    assert result["before"] == {"a": "gpu:x:3,gpu:y:1"}
    assert conf.read_text() == "NodeName=a Gres=gpu:x:1\n"
    assert slurm.commands == [["scontrol", "reconfigure"]]
    told = run(slurm_node_gres.main, slurm, check=True, **words)
    assert told["diff"][0]["after"] == "NodeName=a Gres=gpu:x:1,gpu:z:1\n"
    assert conf.read_text() == told["diff"][0]["before"]
    assert run(slurm_node_gres.main, slurm, **{**words, "nodes": {"a": None}, "reconfigure": False})["changed"]
    assert conf.read_text() == "NodeName=a\n"
    assert len(slurm.commands) == 1


def test_a_controller_that_refuses_changes_nothing(run: Run, tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("NodeName=a Gres=gpu:x:3\n")
    slurm = Controller()
    slurm.refuses = "slurm_reconfigure error: Unspecified error"
    result = run(slurm_node_gres.main, slurm, path=str(conf), nodes={"a": "gpu:x:1"}, reconfigure=True)
    assert result["failed"]
    assert "The old configuration is back in place" in result["msg"]
    assert conf.read_text() == "NodeName=a Gres=gpu:x:3\n"
    for nodes in ({"b": "gpu:1"}, {"a": "gpu:"}):
        result = run(slurm_node_gres.main, slurm, path=str(conf), nodes=nodes)
        assert result["failed"]
