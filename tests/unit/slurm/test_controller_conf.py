# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.controller_conf import (
    ConfError,
    check_conf,
    check_included,
    read_conf,
    with_include,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import parse_gres
from ansible_collections.hpc.compute.plugins.module_utils.slurm.publish import PublishError

_CONF = "ClusterName=c\ninclude more.conf\n  Include nodes.conf\nPartitionName=main Nodes=ALL\n"
_MORE = "AccountingStorageType=accounting_storage/slurmdbd\nNodeName=login[1-2] CPUs=2\n"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "more.conf").write_text(_MORE)
    path = tmp_path / "slurm.conf"
    path.write_text(_CONF)
    return path


def test_reads_all_files_but_the_one_that_need_not_be_there(conf: Path) -> None:
    found = read_conf(conf, conf.with_name("nodes.conf"))
    assert found.includes_nodes
    assert found.nodes == {"login1", "login2"}
    assert found.database
    assert found.settings["clustername"] == "c"
    assert not read_conf(conf.with_name("more.conf"), conf.with_name("nodes.conf")).includes_nodes


def test_says_what_cannot_be_read(conf: Path) -> None:
    with pytest.raises(ConfError, match="found none"):
        read_conf(conf.with_name("no.conf"), conf.with_name("nodes.conf"))
    with pytest.raises(PublishError, match=r"nodes\.conf"):
        read_conf(conf, conf.with_name("other.conf"))
    conf.write_text("NodeName=n[1-\n")
    with pytest.raises(ConfError, match=r"slurm\.conf: expected a host list"):
        read_conf(conf, conf.with_name("nodes.conf"))


def test_what_nodes_conf_has_to_say(conf: Path) -> None:
    own = conf.with_name("nodes.conf")
    entries = parse_gres("gpu:a:1,shard:4")
    assert check_conf(read_conf(conf, own), ["n1"], entries) == (True, True, [])
    conf.with_name("more.conf").write_text("GresTypes=gpu,shard\nAccountingStorageTRES=gres/gpu\n")
    assert check_conf(read_conf(conf, own), ["n1"], entries) == (False, False, [])
    conf.with_name("more.conf").write_text(_MORE + "AccountingStorageTRES=gres/gpu\n")
    gres_types, accounting, (warning,) = check_conf(read_conf(conf, own), ["n1"], entries)
    assert (gres_types, accounting) == (True, False)
    assert "of its own, without gres/gpu:a, gres/shard:" in warning


def test_nodes_that_are_served_the_configuration_need_its_limits(conf: Path) -> None:
    own, more, cgroup = (conf.with_name(name) for name in ("nodes.conf", "more.conf", "cgroup.conf"))

    def warned(gres: str = "gpu:a:1") -> str:
        return " ".join(check_conf(read_conf(conf, own), ["n1"], parse_gres(gres))[2])

    more.write_text("SlurmctldParameters=enable_configless,x\nTaskPlugin=task/cgroup,task/affinity\n")
    assert f"expected ConstrainDevices=yes in {cgroup}" in warned()
    assert "found no such line, TaskPlugin=task/cgroup,task/affinity: on configless nodes" in warned()
    assert warned("") == "", "there is nothing to keep jobs from"
    cgroup.write_text("# ConstrainDevices=yes\nConstrainDevices=no\n")
    assert "no such line" in warned()
    cgroup.write_text("constraindevices = Yes # as it must be\n")
    assert warned() == ""
    more.write_text("SlurmctldParameters=enable_configless\n")
    assert "found ConstrainDevices=yes, TaskPlugin=:" in warned()
    more.write_text("TaskPlugin=task/none\n")
    assert warned() == "", "nodes have files of their own"


def test_refuses_what_slurmctld_would_refuse(conf: Path) -> None:
    found = read_conf(conf, conf.with_name("nodes.conf"))
    with pytest.raises(ConfError, match="describe: login2"):
        check_conf(found, ["login2", "n1"], [])
    conf.with_name("more.conf").write_text("GresTypes=gpu\n")
    with pytest.raises(ConfError, match="GresTypes=gpu, and the nodes offer shard, too"):
        check_conf(read_conf(conf, conf.with_name("nodes.conf")), ["n1"], parse_gres("gpu:1,shard:4"))


def test_a_line_is_added_before_the_partitions() -> None:
    added = with_include("A=1\n partitionname = x\nPartitionName=y\n", "nodes.conf")
    assert added.splitlines()[2:4] == ["Include nodes.conf", " partitionname = x"]
    assert with_include("A=1", "n.conf").splitlines()[::2] == ["A=1", "Include n.conf"]
    assert with_include("", "n.conf").endswith("\nInclude n.conf\n")


def test_files_that_slurm_would_not_read_are_refused(conf: Path) -> None:
    nodes = conf.with_name("nodes.conf")
    check_included(conf, {nodes: "", conf.with_name("gres.conf"): "", conf.with_name("old.conf"): None})
    conf.write_text("ClusterName=c\n")
    with pytest.raises(ConfError, match=r"does not include .*/nodes\.conf"):
        check_included(conf, {nodes: ""})
    check_included(conf, {nodes: "", conf: "Include nodes.conf\n"})
