# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What slurm.conf says about this node, in the ways in which it can be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.command.slurm_conf import SlurmConfError, node_gres


def write(root: Path, text: str, name: str = "slurm.conf") -> None:
    path = root / "etc/slurm" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "gres"),
    [
        ("NodeName=gpu01 CPUs=4 Gres=gpu:h100:2\n", "gpu:h100:2"),
        ("nodename=gpu[01-04] cpus=4 gres=gpu:h100:2 # all of them\n", "gpu:h100:2"),
        ("NodeName=gpu01 \\\n  CPUs=4 \\\n  Gres=gpu:7\n", "gpu:7"),
        ("NodeName=DEFAULT Gres=gpu:2\nNodeName=gpu01 CPUs=4\n", "gpu:2"),
        ("NodeName=DEFAULT Gres=gpu:2\nNodeName=gpu01 Gres=gpu:1\n", "gpu:1"),
        ("NodeName=n1 NodeHostname=gpu01 Gres=gpu:1\nNodeName=gpu02 Gres=gpu:2\n", "gpu:1"),
        ("NodeName=gpu01 CPUs=4\n", ""),
        ("# NodeName=gpu01 Gres=gpu:1\nNodeName=gpu02 Gres=gpu:2\n", None),
        ('NodeName=gpu01 Comment="a b" Gres=gpu:1\n', "gpu:1"),
        ("", None),
    ],
)
def test_gres_of_this_node(text: str, gres: str | None, tmp_path: Path) -> None:
    write(tmp_path, text)
    assert node_gres(tmp_path, "gpu01.example.org") == gres


def test_no_slurm_conf_is_no_answer(tmp_path: Path) -> None:
    assert node_gres(tmp_path, "gpu01") is None


@pytest.mark.parametrize("options", ["-N other", '"-N other -v"', "-v -Nother"])
def test_the_name_that_slurmd_is_given_counts(options: str, tmp_path: Path) -> None:
    write(tmp_path, "NodeName=other NodeHostname=gpu01 Gres=gpu:1\nNodeName=gpu01 Gres=gpu:2\n")
    (tmp_path / "etc/default").mkdir()
    (tmp_path / "etc/default/slurmd").write_text(f"# options\nSLURMD_OPTIONS={options}\n")
    assert node_gres(tmp_path, "gpu01") == "gpu:1"


@pytest.mark.parametrize("options", ["", "-v", "--conf-server ctl"])
def test_options_without_a_name(options: str, tmp_path: Path) -> None:
    write(tmp_path, "NodeName=gpu01 Gres=gpu:2\n")
    (tmp_path / "etc/default").mkdir()
    (tmp_path / "etc/default/slurmd").write_text(f'SLURMD_OPTIONS="{options}"\n')
    assert node_gres(tmp_path, "gpu01") == "gpu:2"


def test_options_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    write(tmp_path, "NodeName=gpu01\n")
    (tmp_path / "etc/default").mkdir()
    (tmp_path / "etc/default/slurmd").write_text('SLURMD_OPTIONS="-N\n')
    with pytest.raises(SlurmConfError, match="expected options in"):
        node_gres(tmp_path, "gpu01")


def test_included_files_are_read(tmp_path: Path) -> None:
    write(tmp_path, "Include nodes.conf\ninclude /etc/slurm/more.conf\n")
    write(tmp_path, "NodeName=gpu02 Gres=gpu:2\n", "nodes.conf")
    write(tmp_path, "NodeName=gpu01 Gres=gpu:1\n", "more.conf")
    assert node_gres(tmp_path, "gpu01") == "gpu:1"


def test_a_missing_or_endless_include_is_told(tmp_path: Path) -> None:
    write(tmp_path, "Include missing.conf\n")
    with pytest.raises(SlurmConfError, match=r"missing\.conf could not be read"):
        node_gres(tmp_path, "gpu01")
    write(tmp_path, "Include slurm.conf\n")
    with pytest.raises(SlurmConfError, match="without end"):
        node_gres(tmp_path, "gpu01")


@pytest.mark.parametrize("names", ["gpu[01", "gpu[1-99999999999]", "gpu[b-a]", "x[1-900]y[1-900]", "gpu[4-1]"])
def test_a_list_of_nodes_that_is_none_is_told(names: str, tmp_path: Path) -> None:
    write(tmp_path, f"NodeName={names} Gres=gpu:1\n")
    with pytest.raises(SlurmConfError, match="host list"):
        node_gres(tmp_path, "gpu01")
