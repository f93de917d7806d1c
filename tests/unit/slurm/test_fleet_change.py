# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet_change import FleetChange, classify, way

_OLD = "GresTypes=gpu\nNodeName=n[1-4] NodeAddr=10.0.0.[1-4] CPUs=8 Gres=gpu:a:2\n"


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        ("gpu:a:2", "gpu:a:2", "same"),
        ("gpu:a:2,gpu:b:1", "gpu:b:1,gpu:a:2", "same"),
        ("gpu:a:2", "gpu:a:3", "grow"),
        ("", "gpu:a:3", "grow"),
        ("gpu:a:2,gpu:b:1", "gpu:a:2", "shrink"),
        ("gpu:a:2", "gpu:b:2", "mixed"),
        ("gpu:a:2,gpu:b:1", "gpu:a:1,gpu:b:2", "mixed"),
    ],
)
def test_ways(old: str, new: str, result: str) -> None:
    assert way(old, new) == result


def test_the_same_nodes_on_other_lines_are_no_change() -> None:
    split = "".join(
        f"NodeName=n{number} NodeAddr=10.0.0.{number} \\\n  CPUs=8 Gres=gpu:a:2 # x\n" for number in (4, 1, 2, 3)
    )
    assert classify(_OLD, f"# other\nGresTypes=gpu\n{split}") == FleetChange("none")
    default = "GresTypes=gpu\nNodeName=DEFAULT CPUs=8 Gres=gpu:a:2\nNodeName=n[1-4] NodeAddr=10.0.0.[1-4]\n"
    assert classify(_OLD, default) == FleetChange("none")


def test_each_way_of_change() -> None:
    new = (
        "GresTypes=gpu\nNodeName=n1 NodeAddr=10.0.0.1 CPUs=8 Gres=gpu:a:3\n"
        "NodeName=n2 NodeAddr=10.0.0.2 CPUs=8 Gres=gpu:a:1\nNodeName=n3 NodeAddr=10.0.0.3 CPUs=8 Gres=gpu:b:2\n"
        "NodeName=n5 CPUs=8\n"
    )
    assert classify(_OLD, new) == FleetChange(
        "reconfigure",
        added=("n5",),
        removed=("n4",),
        grown=("n1",),
        shrunk=("n2",),
        mixed=("n3",),
        drain=("n4", "n1", "n2", "n3"),
    )


def test_what_jobs_do_not_feel_needs_no_draining() -> None:
    moved = _OLD.replace("10.0.0.", "10.0.1.").replace("CPUs=8", "CPUs=8 Feature=ib Weight=3")
    assert classify(_OLD, moved) == FleetChange("reconfigure")
    assert classify(_OLD, _OLD.replace("CPUs=8", "CPUs=6")).drain == ("n1", "n2", "n3", "n4")


def test_settings() -> None:
    assert classify(_OLD, _OLD.replace("=gpu\n", "=gpu,shard\n")) == FleetChange("reconfigure")
    assert classify(_OLD, f"{_OLD}TreeWidth=20\n") == FleetChange("restart")
    assert classify("", _OLD).added == ("n1", "n2", "n3", "n4")
    assert classify(_OLD, f"{_OLD}NodeName=x CPUs=1\n") == FleetChange("reconfigure", added=("x",))


def test_lists_that_cannot_be_read_are_told() -> None:
    with pytest.raises(ValueError, match="host list"):
        classify(_OLD, "NodeName=n[1- CPUs=1\n")


def test_other_memory_leaves_jobs_alone() -> None:
    old = _OLD.replace("CPUs=8", "CPUs=8 RealMemory=1000")
    assert classify(old, old.replace("RealMemory=1000", "RealMemory=990")) == FleetChange("reconfigure")
