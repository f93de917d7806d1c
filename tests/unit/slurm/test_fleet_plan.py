# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Iterable

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet import (
    NodeFacts,
    fleet_files,
    read_facts,
    read_files,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet_plan import (
    FleetPlan,
    Present,
    Standing,
    plan_fleet,
    told_of_held,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.states import Node


def fact(name: str, gres: str = "gpu:a:2", memory: int = 1000, more: str = "") -> NodeFacts:
    line = f"NodeName={name} CPUs=8 RealMemory={memory}{f' Gres={gres}' if gres else ''}{more}"
    return read_facts(name, {"node_line": line})


def present(*facts: NodeFacts) -> Present:
    files = fleet_files(facts)
    return Present(files.nodes_conf, files.gres_conf, read_files(files.nodes_conf, files.gres_conf))


def standing(states: str = "IDLE", reason: str = "", busy: Iterable[str] = (), names: str = "n1 n2 n3") -> Standing:
    known = {name: Node(name, frozenset(states.split("+")), reason, "gpu:a:2") for name in names.split()}
    return Standing(known, frozenset(busy))


def never() -> Standing:
    raise AssertionError("the controller was asked though no job is concerned")


def lines(plan: FleetPlan) -> list[str]:
    return [line for line in plan.nodes_conf.splitlines() if line.startswith("NodeName")]


def test_the_first_nodes_concern_no_job() -> None:
    plan = plan_fleet(Present("", "", {}), [fact("n1"), fact("n2")], never)
    assert lines(plan) == ["NodeName=n[1-2] CPUs=8 RealMemory=1000 Gres=gpu:a:2"]
    assert (plan.change.action, plan.change.added, plan.held, plan.kept) == ("reconfigure", ("n1", "n2"), {}, ())


def test_lines_that_were_divided_since_are_no_change() -> None:
    text = "# Managed by Ansible (hpc.compute.slurm_nodes)\nGresTypes=gpu\n" + "".join(
        f"NodeName={name} CPUs=8 RealMemory=1000 Gres=gpu:a:2\n" for name in ("n2", "n1")
    )
    now = Present(text, "", read_files(text, ""))
    plan = plan_fleet(now, [fact("n1"), fact("n2")], never)
    assert plan.nodes_conf == text
    assert plan.change.action == "none"


def test_memory_that_is_as_good_stays() -> None:
    now = present(fact("n1"), fact("n2"), fact("n3", memory=2000))
    plan = plan_fleet(now, [fact("n1", memory=1004), fact("n2", memory=1011), fact("n3", memory=2001)], never)
    assert plan.nodes_conf == now.nodes_conf
    # one that finds less has a line of its own; a new one joins a line that is good for it
    plan = plan_fleet(
        now, [fact("n1", memory=996), fact("n2"), fact("n3", memory=2000), fact("n4", memory=1002)], never
    )
    assert [line.split()[0] for line in lines(plan)] == ["NodeName=n1", "NodeName=n[2,4]", "NodeName=n3"]
    assert "RealMemory=996" in lines(plan)[0]
    assert plan.held == {}


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (standing(), "it is in service, and a job that starts just then would be killed"),
        (standing("MIXED+DRAIN", "fan", busy=["n2"]), "jobs run on it, which would be killed"),
        (standing("IDLE+DRAIN", "hpc.compute: layout change under way"), "its layout is being changed, or that failed"),
    ],
)
def test_a_node_in_service_keeps_its_line(now: Standing, why: str) -> None:
    plan = plan_fleet(present(*map(fact, ("n1", "n2"))), [fact("n1"), fact("n2", "gpu:a:3"), fact("n3")], lambda: now)
    assert lines(plan) == ["NodeName=n[1-3] CPUs=8 RealMemory=1000 Gres=gpu:a:2"]
    assert list(plan.held) == ["n2"]
    assert plan.held["n2"].startswith(f"Gres=gpu:a:2 is to become gpu:a:3, but {why}")
    assert (plan.change.added, plan.change.drain) == (("n3",), ())


@pytest.mark.parametrize(
    "now",
    [
        standing("IDLE+DRAIN", "fan"),
        standing("IDLE+DRAIN+INVALID_REG", "gres/gpu count reported lower than configured"),
        standing("DOWN"),
        standing("FUTURE"),
        standing(names="n1"),
    ],
)
def test_a_node_out_of_service_gets_its_new_line(now: Standing) -> None:
    plan = plan_fleet(present(*map(fact, ("n1", "n2"))), [fact("n1"), fact("n2", "gpu:a:3")], lambda: now)
    assert "Gres=gpu:a:3" in lines(plan)[1]
    assert plan.held == {}
    assert plan.change.grown == ("n2",)


def test_nodes_that_nothing_is_known_of_stay_unless_told() -> None:
    now = present(*map(fact, ("n1", "n2", "n3")))
    plan = plan_fleet(now, [fact("n1")], never)
    assert (plan.nodes_conf, plan.kept) == (now.nodes_conf, ("n2", "n3"))
    plan = plan_fleet(now, [fact("n1")], lambda: standing(busy=["n2"]), remove=True)
    assert (
        plan.held["n3"]
        == "it is to be taken out, but it is in service, and a job that starts just then would be killed"
    )
    assert plan.nodes_conf == now.nodes_conf
    plan = plan_fleet(now, [fact("n1")], lambda: standing("IDLE+DRAIN"), remove=True)
    assert lines(plan) == ["NodeName=n1 CPUs=8 RealMemory=1000 Gres=gpu:a:2"]
    assert plan.change.removed == ("n2", "n3")


def test_nodes_held_for_one_reason_are_told_together_with_what_to_do() -> None:
    grown, busy = "Gres=gpu:a:2 is to become gpu:a:3, but it is in service", "it is to be taken out, but jobs run on it"
    changing = "Gres=gpu:a:2 is to become gpu:a:3, but its layout is being changed"
    told = told_of_held({"n10": grown, "n9": grown, "x": busy, "y": changing, "z": "CPUs=8 is to become 4, but jobs"})
    assert told == [
        f"n[9-10]: {grown}. Change layouts with the playbook hpc.compute.gpu_layout, which takes nodes out of service "
        "for it; or drain them, wait for their jobs, and run this again.",
        f"x: {busy}. Drain them, wait for their jobs, and run this again.",
        f"y: {changing}. Let the playbook hpc.compute.gpu_layout finish it, or run that again.",
        "z: CPUs=8 is to become 4, but jobs. Drain them, wait for their jobs, and run this again.",
    ]


def test_accounting_of_what_is_held_and_what_is_new() -> None:
    plan = plan_fleet(
        present(fact("n1", "gpu:a:2"), fact("n2", "gpu:b:1")),
        [fact("n1", "gpu:c:2"), fact("n3", "gpu:d:1")],
        standing,
        accounting=True,
    )
    assert "AccountingStorageTRES=gres/gpu,gres/gpu:a,gres/gpu:b,gres/gpu:d\n" in plan.nodes_conf
