# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller's files planned with its own slurm.conf, and the modules that plan and install them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.controller_conf import ConfError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet import NodeFacts, read_facts
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet_controller import (
    ControllerPlan,
    Paths,
    Wishes,
    plan_controller,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.publish import pending
from ansible_collections.hpc.compute.plugins.module_utils.slurm.scontrol import Scontrol
from ansible_collections.hpc.compute.plugins.module_utils.slurm.takeover import Service
from ansible_collections.hpc.compute.plugins.modules import slurm_fleet_files, slurm_fleet_plan


def fact(name: str, gres: str = "gpu:a:2", **more: object) -> NodeFacts:
    return read_facts(name, {"node_line": f"NodeName={name} CPUs=8{f' Gres={gres}' if gres else ''}", **more})


class Site:
    """A folder with slurm.conf, and a controller that answers unless it is *down*."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(folder / "slurm.conf", folder / "nodes.conf")
        self.paths.slurm_conf.write_text("ClusterName=c\nInclude nodes.conf\nPartitionName=main Nodes=ALL\n")
        self.down = False
        self.nodes: list[dict[str, Any]] = []
        self.busy = ""

    def run(self, command: Sequence[str]) -> Completed:
        if command == ["scontrol", "ping"]:
            return Completed(int(self.down), "Slurmctld(primary) at a is " + ("DOWN" if self.down else "UP"), "")
        if command[0] == "systemctl":
            return Completed(3, "inactive", "")
        if command[0] == "squeue":
            return Completed(0, self.busy, "")
        return Completed(0, json.dumps({"nodes": self.nodes}), "")

    def plan(self, *facts: NodeFacts, **wishes: bool) -> ControllerPlan:
        service = Service(self.run, Scontrol(self.run))
        return plan_controller(self.paths, facts, service, Wishes(**wishes))

    def install(self, *facts: NodeFacts, **wishes: bool) -> None:
        for path, text in self.plan(*facts, **wishes).files.items():
            path.write_text(text)


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a module with *run* for its commands; its result."""
    mains = {"slurm_fleet_files": slurm_fleet_files.main, "slurm_fleet_plan": slurm_fleet_plan.main}

    def ended(
        name: str, params: dict[str, Any], *, run: Callable[[Sequence[str]], Completed], check: bool = False
    ) -> dict[str, Any]:
        def command(_: AnsibleModule, words: list[str]) -> tuple[int, str, str]:
            done = run(words)
            return done.rc, done.stdout, done.stderr

        monkeypatch.setattr(AnsibleModule, "run_command", command)
        with patch_module_args({**params, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            mains[name]()
        result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return result

    return ended


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_first_files_and_none_the_second_time(site: Site) -> None:
    plan = site.plan(fact("n1"), fact("n2"))
    assert [path.name for path in plan.files] == ["nodes.conf", "gres.conf"]
    assert (plan.action, plan.running) == ("reconfigure", True)
    site.install(fact("n1"), fact("n2"))
    assert site.plan(fact("n2"), fact("n1")).action == "none"
    pending(site.paths.slurm_conf).touch()
    assert site.plan(fact("n2"), fact("n1")).action == "reconfigure"
    site.down = True
    assert site.plan(fact("n3")).action == "none"
    assert not site.plan(fact("n3")).running


def test_a_node_that_counts_itself_changes_gres_conf_only(site: Site) -> None:
    site.install(fact("n1"))
    plan = site.plan(fact("n1", autodetect="off"))
    assert plan.plan.change.action == "none"
    assert plan.action == "reconfigure"


def test_what_is_held_and_what_is_not_known_is_told(site: Site) -> None:
    site.install(fact("n1"), fact("n2"), fact("n3"))
    site.nodes = [{"name": f"n{i}", "state": ["MIXED"], "reason": "", "gres": "gpu:a:2"} for i in (1, 2, 3)]
    site.busy = "n[1-2]\n"
    plan = site.plan(fact("n1", "gpu:a:3"), fact("n2", "gpu:a:3"))
    assert plan.action == "none"
    assert len(plan.held) == 1
    assert plan.held[0].startswith("n[1-2]: Gres=gpu:a:2 is to become gpu:a:3, but jobs run on it")
    assert "this run knows nothing of n3: their lines stay" in plan.notes[0]
    site.down = True
    assert site.plan(fact("n1", "gpu:a:3"), fact("n2", "gpu:a:3")).held == []


def test_what_a_killed_run_wrote_is_held_like_the_rest(site: Site) -> None:
    """The controller still counts two GPUs on either node, and jobs were started on n1 since."""
    site.install(fact("n1", "gpu:a:3"), fact("n2", "gpu:a:3"))
    pending(site.paths.slurm_conf).touch()
    site.nodes = [
        {"name": "n1", "state": ["MIXED"], "reason": "", "gres": "gpu:a:2"},
        {"name": "n2", "state": ["IDLE", "DRAIN"], "reason": "mine", "gres": "gpu:a:2"},
    ]
    site.busy = "n1\n"
    plan = site.plan(fact("n1", "gpu:a:3"), fact("n2", "gpu:a:3"))
    assert plan.held[0].startswith("n1: Gres=gpu:a:2 is to become gpu:a:3, but jobs run on it")
    assert "NodeName=n1 CPUs=8 Gres=gpu:a:2" in plan.files[site.paths.nodes_conf]
    assert "NodeName=n2 CPUs=8 Gres=gpu:a:3" in plan.files[site.paths.nodes_conf]
    assert plan.action == "reconfigure"
    site.paths.nodes_conf.write_text(site.paths.nodes_conf.read_text() + "NodeName=DEFAULT Gres=gpu:a:1\n")
    with pytest.raises(ConfError, match=r"nodes\.conf: NodeName=DEFAULT sets Gres"):
        site.plan(fact("n1", "gpu:a:3"))


def test_accounting_by_what_the_controller_has(site: Site) -> None:
    conf = site.paths.slurm_conf
    assert "Accounting" not in site.plan(fact("n1")).files[site.paths.nodes_conf]
    conf.write_text("AccountingStorageType=accounting_storage/slurmdbd\nGresTypes=gpu\n" + conf.read_text())
    text = site.plan(fact("n1")).files[site.paths.nodes_conf]
    assert "AccountingStorageTRES=gres/gpu,gres/gpu:a\n" in text
    assert "GresTypes" not in text
    conf.write_text("AccountingStorageTRES=gres/gpu\n" + conf.read_text())
    plan = site.plan(fact("n1"))
    assert "Accounting" not in plan.files[site.paths.nodes_conf]
    assert "without gres/gpu:a" in plan.notes[0]


def test_a_slurm_conf_without_the_line(site: Site) -> None:
    site.paths.slurm_conf.write_text("ClusterName=c\nPartitionName=main Nodes=ALL\n")
    with pytest.raises(ConfError, match=r"expected a line 'Include nodes\.conf' in .*slurm_controller_nodes_include"):
        site.plan(fact("n1"))
    plan = site.plan(fact("n1"), include=True)
    assert next(iter(plan.files)) == site.paths.slurm_conf
    site.install(fact("n1"), include=True)
    assert site.plan(fact("n1"), include=True).action == "none"
    site.paths.slurm_conf.write_text("ClusterName=c\n")
    elsewhere = Paths(site.paths.slurm_conf, site.paths.slurm_conf.parent / "more/nodes.conf")
    with pytest.raises(ConfError, match=r"Include /.*/more/nodes\.conf'"):
        plan_controller(elsewhere, [fact("n1")], Service(site.run, Scontrol(site.run)), Wishes())


def test_files_of_somebody_else(site: Site) -> None:
    site.paths.nodes_conf.write_text("NodeName=DEFAULT CPUs=8\nNodeName=n9\n")
    site.paths.gres_conf.write_text("AutoDetect=nvml\n")
    with pytest.raises(ConfError, match=r"nodes\.conf and .*gres\.conf: not written by this collection"):
        site.plan(fact("n1"))
    plan = site.plan(fact("n1"), replace=True)
    assert "n9" not in plan.files[site.paths.nodes_conf]
    assert plan.action == "reconfigure"


def test_what_slurm_would_misread_is_refused(site: Site) -> None:
    with pytest.raises(ConfError, match=r"refuse these files or misread them\. n1: .*would match no device"):
        site.plan(fact("n1", "gpu:a100-1g.5gb:2"))
    assert "Gres=gpu without a number" in site.plan(fact("n1", "gpu")).notes[0]


def test_the_plan_module(site: Site, run_module: Run) -> None:
    line = {"node_line": "NodeName=n1 CPUs=8 Gres=gpu:a:2"}
    given = {"slurm_conf": str(site.paths.slurm_conf), "nodes_conf": str(site.paths.nodes_conf)}
    result = run_module("slurm_fleet_plan", {"nodes": {"h1": line}, **given}, run=site.run)
    assert result["changed"] is False
    assert (result["action"], result["added"], result["running"]) == ("reconfigure", ["n1"], True)
    assert [Path(one["path"]).name for one in result["files"]] == ["nodes.conf", "gres.conf"]
    result = run_module("slurm_fleet_plan", {"nodes": {"h1": {"node_line": None}}, **given}, run=site.run)
    assert result["failed"]
    assert "h1: expected node_line" in result["msg"]
    result = run_module("slurm_fleet_plan", {"nodes": {"h1": "text"}, **given}, run=site.run)
    assert "h1: expected node_line" in result["msg"]


def _files(site: Site, text: str) -> dict[str, Any]:
    return {
        "files": [{"path": str(site.paths.nodes_conf), "content": text}],
        "slurm_conf": str(site.paths.slurm_conf),
        "trial": False,
    }


def test_the_files_module(site: Site, run_module: Run) -> None:
    nodes = site.paths.nodes_conf
    wanted = {**_files(site, "NodeName=n1\n"), "activate": "reconfigure"}
    result = run_module("slurm_fleet_files", wanted, run=site.run, check=True)
    assert result["changed"]
    assert not nodes.exists()
    result = run_module("slurm_fleet_files", wanted, run=site.run)
    assert result["before"] == [{"path": str(nodes), "content": None}]
    assert result["diff"][0]["after"] == nodes.read_text() == "NodeName=n1\n"
    assert not run_module("slurm_fleet_files", wanted, run=site.run)["changed"]
    pending(site.paths.slurm_conf).touch()
    assert run_module("slurm_fleet_files", wanted, run=site.run)["changed"]
    assert not pending(site.paths.slurm_conf).exists()
    removed = {**wanted, "files": result["before"]}
    site.paths.slurm_conf.write_text("ClusterName=c\n")
    assert run_module("slurm_fleet_files", removed, run=site.run)["changed"]
    assert not nodes.exists()
    result = run_module("slurm_fleet_files", wanted, run=site.run)
    assert "does not include" in result["msg"]


def test_a_controller_that_refuses_keeps_its_files(site: Site, run_module: Run) -> None:
    site.paths.nodes_conf.write_text("NodeName=n1\n")

    def run(command: Sequence[str]) -> Completed:
        if command == ["scontrol", "reconfigure"]:
            return Completed(1, "", "slurm_reconfigure error: Unspecified error")
        return site.run(command)

    result = run_module("slurm_fleet_files", {**_files(site, "NodeName=n2\n"), "activate": "reconfigure"}, run=run)
    assert "Unspecified error. The old files are back. The controller runs on" in result["msg"]
    assert site.paths.nodes_conf.read_text() == "NodeName=n1\n"


def test_nothing_is_replaced_before_the_trial(site: Site, run_module: Run) -> None:
    result = run_module("slurm_fleet_files", {**_files(site, "NodeName=n2\n"), "trial": True}, run=site.run)
    assert result["failed"]
    assert not site.paths.nodes_conf.exists()
