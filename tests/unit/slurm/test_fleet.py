# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet import (
    FleetError,
    FleetFiles,
    fleet_files,
    is_ours,
    read_facts,
    read_files,
)

_GRES = "gpu:nvidia_h100_80gb_hbm3:8"


def _facts(name: str, gres: str = _GRES, memory: object = 1000, **facts: object) -> dict[str, object]:
    line = f"NodeName={name} CPUs=8 RealMemory={memory}{f' Gres={gres}' if gres else ''} Feature=ib"
    return {"node_line": line, **facts}


def _files(
    *facts: dict[str, object], tolerance: float = 2.0, settings: bool = False, accounting: bool = False
) -> FleetFiles:
    nodes = [read_facts(f"host{number}", one) for number, one in enumerate(facts)]
    return fleet_files(nodes, memory_tolerance=tolerance, settings=settings, accounting=accounting)


def _lines(*facts: dict[str, object], tolerance: float = 2.0) -> list[str]:
    return _files(*facts, tolerance=tolerance).nodes_conf.splitlines()[1:]


def test_alike_nodes_share_a_line_in_any_order() -> None:
    names = ["n3", "n1", "n2", "n10"]
    expected = [f"NodeName=n[1-3,10] CPUs=8 RealMemory=1000 Gres={_GRES} Feature=ib"]
    assert _lines(*map(_facts, names)) == expected
    assert _lines(*map(_facts, sorted(names))) == expected


def test_nodes_that_differ_have_lines_of_their_own_by_their_first_node() -> None:
    lines = _lines(_facts("n2", ""), _facts("n1"), _facts("n4", ""), _facts("n3"), _facts("a1", "gpu:x:1"))
    assert [line.split()[0] for line in lines] == ["NodeName=a1", "NodeName=n[1,3]", "NodeName=n[2,4]"]


def test_memory_that_differs_a_little_is_one_line_with_the_least() -> None:
    assert _lines(_facts("n1", memory=1019), _facts("n2", memory=1000), _facts("n3", memory=1021)) == [
        f"NodeName=n[1-2] CPUs=8 RealMemory=1000 Gres={_GRES} Feature=ib",
        f"NodeName=n3 CPUs=8 RealMemory=1021 Gres={_GRES} Feature=ib",
    ]
    assert len(_lines(_facts("n1", memory=1001), _facts("n2"), tolerance=0)) == 2
    odd = _lines(_facts("n1", memory="4G"), _facts("n2"), _facts("n3", memory="4G"))
    assert [line.split()[0] for line in odd] == ["NodeName=n[1,3]", "NodeName=n2"]


def test_addresses_stay_in_step_with_names() -> None:
    facts: list[dict[str, object]] = [
        {"node_line": f"NodeName=n{number} NodeHostname=h{9 - number} NodeAddr=10.0.0.{number} CPUs=8"}
        for number in (1, 2, 3)
    ]
    assert _lines(*facts, {"node_line": "NodeName=n4 CPUs=8"}) == [
        "NodeName=n[1-3] NodeHostname=h[8,7,6] NodeAddr=10.0.0.[1-3] CPUs=8",
        "NodeName=n4 CPUs=8",
    ]


def test_quoted_values_stay_whole() -> None:
    (line,) = _lines({"node_line": 'NodeName=n1 CPUs=8 Reason="to be tested"'})
    assert line == 'NodeName=n1 CPUs=8 Reason="to be tested"'


def test_settings_of_all_nodes() -> None:
    files = _files(_facts("n1"), _facts("n2", "gpu:a100:1,shard:8"), _facts("n3", ""), settings=True, accounting=True)
    assert files.nodes_conf.splitlines()[1:3] == [
        "GresTypes=gpu,shard",
        "AccountingStorageTRES=gres/gpu,gres/gpu:a100,gres/gpu:nvidia_h100_80gb_hbm3,gres/shard",
    ]
    assert files.gres_types == ["gpu", "shard"]
    assert files.nodes == ["n1", "n2", "n3"]
    assert len(_files(_facts("n1", ""), settings=True, accounting=True).nodes_conf.splitlines()) == 2
    assert "Accounting" not in _files(_facts("n1"), settings=True).nodes_conf


def test_gres_conf() -> None:
    files = _files(_facts("n1"), _facts("n2"), _facts("c1", ""), _facts("s1", autodetect="off"))
    assert files.gres_conf.splitlines()[1] == "NodeName=n[1-2] AutoDetect=nvml"
    assert files.gres_conf.splitlines()[-1] == "Include /etc/hpc-compute/gres.conf"
    assert "Made on the nodes s1." in files.gres_conf
    assert "Include" in _files(_facts("n1", shared={"shard": {"*": 4}})).gres_conf
    assert "Include" not in _files(_facts("n1", shared={}), _facts("n2", autodetect="nvml")).gres_conf
    assert len(_files().gres_conf.splitlines()) == 1


@pytest.mark.parametrize(
    "line", [None, "# n1: its line is known once slurmd is installed", "NodeName=n[1-2] CPUs=1", ""]
)
def test_hosts_without_a_line_are_told(line: object) -> None:
    with pytest.raises(FleetError, match="host7: expected node_line to be the line of one node"):
        read_facts("host7", {"node_line": line})


def test_two_hosts_of_one_name_are_told() -> None:
    with pytest.raises(FleetError, match="two hosts say that they are the node n1"):
        _files(_facts("n1"), _facts("n2"), _facts("n1"))


def test_gres_that_slurm_cannot_read_is_told_with_the_node() -> None:
    with pytest.raises(FleetError, match=r"node n2: Gres entry 'gpu:1g\.5gb'"):
        _files(_facts("n1"), _facts("n2", "gpu:1g.5gb"))


def test_files_are_read_as_they_were_made() -> None:
    facts: list[dict[str, object]] = [
        {"node_line": f"NodeName=n{number} NodeHostname=h{number} NodeAddr=10.0.0.{number} CPUs=8 Gres=gpu:a:1"}
        for number in (1, 2, 3)
    ]
    own: dict[str, object] = {"node_line": 'NodeName=s1 CPUs=8 Gres=gpu:x:2 Reason="to be tested"', "autodetect": "off"}
    files = _files(*facts, own, settings=True)
    nodes = read_files(files.nodes_conf, files.gres_conf)
    assert list(nodes) == ["n1", "n2", "n3", "s1"]
    assert nodes["n2"] == read_facts("n2", facts[1])
    assert nodes["s1"] == read_facts("s1", own)
    assert fleet_files(nodes.values()) == files
    assert read_files("", "") == {}


def test_files_that_cannot_be_read_are_told() -> None:
    with pytest.raises(FleetError, match="as many addresses as names"):
        read_files("NodeName=n[1-3] NodeAddr=x[1-2]\n", "")
    with pytest.raises(FleetError, match="host list"):
        read_files("NodeName=n[1-3 CPUs=3\n", "")


def test_whose_files_they_are() -> None:
    assert is_ours("")
    assert is_ours(_files(_facts("n1")).nodes_conf)
    assert not is_ours("NodeName=n1\n")
