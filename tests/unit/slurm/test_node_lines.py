# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Only what is to change changes in a slurm.conf, also where nodes share a line."""

from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.node_lines import (
    NodeLineError,
    set_gres,
)

CONF = """\
# NodeName=gpu01 Gres=gpu:old:9
GresTypes=gpu
NodeName=login CPUs=2 RealMemory=100 Feature=x  # no GPU
nodename=gpu01 CPUs=2 RealMemory=100 Gres=gpu:a:1,gpu:b:2 Weight=3 # the first
PartitionName=main Nodes=ALL
"""


def test_replaces_the_value_and_nothing_else() -> None:
    edited = set_gres(CONF, {"gpu01": "gpu:c:7"})
    assert edited.text == CONF.replace("Gres=gpu:a:1,gpu:b:2", "Gres=gpu:c:7")
    assert (edited.before, edited.after) == ({"gpu01": "gpu:a:1,gpu:b:2"}, {"gpu01": "gpu:c:7"})


def test_and_back_again() -> None:
    there = set_gres(CONF, {"gpu01": "gpu:c:7"})
    assert set_gres(there.text, there.before).text == CONF


def test_takes_the_key_out_and_puts_it_in() -> None:
    without = set_gres(CONF, {"gpu01": ""})
    assert without.text == CONF.replace(" Gres=gpu:a:1,gpu:b:2", "")
    assert set_gres(without.text, {"gpu01": "gpu:a:1"}).text == CONF.replace("gpu:a:1,gpu:b:2", "gpu:a:1")
    assert set_gres(CONF, {"login": ""}).text == CONF
    assert set_gres("NodeName=a CPUs=1", {"a": "gpu:1"}).text == "NodeName=a CPUs=1 Gres=gpu:1"


def test_another_order_is_no_change() -> None:
    edited = set_gres(CONF, {"gpu01": "gpu:b:2,gpu:a:1"})
    assert edited.text == CONF
    assert edited.after == edited.before


def test_nodes_that_are_not_there_are_not_told() -> None:
    assert set_gres(CONF, {"gpu02": "gpu:a:1"}).before == {}


def test_divides_a_line_that_nodes_share() -> None:
    line = "NodeName=gpu[01-04,10] NodeAddr=10.0.0.[1-4,10] CPUs=2 Gres=gpu:a:4\n"
    edited = set_gres(line, {"gpu02": "gpu:b:1", "gpu03": "gpu:a:4", "gpu10": "gpu:b:1"})
    assert edited.text == (
        "NodeName=gpu[01,03-04] NodeAddr=10.0.0.[1,3-4] CPUs=2 Gres=gpu:a:4\n"
        "NodeName=gpu[02,10] NodeAddr=10.0.0.[2,10] CPUs=2 Gres=gpu:b:1\n"
    )
    assert edited.before == {"gpu02": "gpu:a:4", "gpu03": "gpu:a:4", "gpu10": "gpu:a:4"}


def test_a_line_goes_on_after_a_backslash() -> None:
    text = "NodeName=a,b CPUs=2 \\\n  RealMemory=5 Gres=gpu:a:1\nNodeName=c Gres=gpu:a:1 \\"
    edited = set_gres(text, {"a": "", "c": "gpu:b:1"})
    assert edited.text == (
        "NodeName=a CPUs=2 \\\n  RealMemory=5\n"
        "NodeName=b CPUs=2 \\\n  RealMemory=5 Gres=gpu:a:1\n"
        "NodeName=c Gres=gpu:b:1 \\"
    )


def test_refuses_what_it_can_not_do_right() -> None:
    with pytest.raises(NodeLineError, match="NodeName=DEFAULT sets Gres"):
        set_gres("NodeName=DEFAULT Gres=gpu:1\nNodeName=a\n", {"a": ""})
    with pytest.raises(NodeLineError, match="expected 2 entries for 2 nodes in 'NodeAddr=x'"):
        set_gres("NodeName=a,b NodeAddr=x Gres=gpu:1\n", {"a": ""})
    with pytest.raises(NodeLineError, match="expected numbers in the brackets"):
        set_gres("NodeName=n[1-x] Gres=gpu:1\n", {"n1": ""})
