# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Debian 13's Slurm 24.11.5 prints of nodes and jobs, recorded, as values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import GresSyntaxError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.states import (
    MARKER,
    MOST_OF_A_REASON,
    StateError,
    common_gres,
    own_reason,
    parse_jobs,
    parse_node,
    same_gres,
)

_RECORDED = Path(__file__).parent / "recorded"
_A30 = "gpu:nvidia_a30:1,gpu:nvidia_a30_1g.6gb:4"


def recorded(name: str) -> str:
    return (_RECORDED / f"{name}.json").read_text()


def test_a_node_in_service() -> None:
    node = parse_node(recorded("node_idle"), "j-a30")
    assert (node.states, node.gres) == (frozenset({"IDLE"}), _A30)
    assert (node.drained, node.ours, node.invalid, node.registered) == (False, False, False, True)
    assert str(node) == "node j-a30 is IDLE"


@pytest.mark.parametrize(("name", "state"), [("node_draining", "ALLOCATED"), ("node_drained", "IDLE")])
def test_a_node_that_we_drained(name: str, state: str) -> None:
    node = parse_node(recorded(name), "j-a30")
    assert node.states == {state, "DRAIN"}
    assert node.drained
    assert node.ours
    assert node.registered
    assert str(node) == f"node j-a30 is {'+'.join(sorted(node.states))} (hpc.compute: layout change to night)"


def test_a_reason_counts_only_while_the_node_is_drained() -> None:
    changed = json.loads(recorded("node_drained"))
    changed["nodes"][0]["state"] = ["IDLE"]
    assert not parse_node(json.dumps(changed), "j-a30").ours


def test_a_node_with_less_than_its_line_says() -> None:
    node = parse_node(recorded("node_invalid"), "j-a30")
    assert node.invalid
    assert not node.registered
    assert node.drained
    assert not node.ours  # Slurm has replaced our reason
    assert "count reported lower than configured (5 < 6)" in str(node)


def test_a_node_that_is_not_heard_of() -> None:
    assert not parse_node(recorded("node_not_responding"), "j-a30").registered


def test_a_node_that_slurm_does_not_know() -> None:
    with pytest.raises(StateError, match="expected a node nosuch"):
        parse_node(recorded("node_unknown"), "nosuch")


def test_a_node_without_gres() -> None:
    changed = json.loads(recorded("node_idle"))
    for value in ("", "(null)"):
        changed["nodes"][0]["gres"] = value
        assert parse_node(json.dumps(changed), "j-a30").gres == ""


@pytest.mark.parametrize(
    "text",
    [
        *("", "no", "[]", "{}", '{"nodes": 1}', '{"nodes": [1]}', '{"nodes": [{"name": "a"}]}'),
        '{"nodes": [{"name": "a", "state": ["IDLE"], "reason": "", "gres": "gpu:"}]}',
    ],
)
def test_what_is_no_output_of_slurm(text: str) -> None:
    with pytest.raises(StateError, match="expected"):
        parse_node(text, "a")


def test_jobs_that_hold_a_node() -> None:
    jobs = parse_jobs(recorded("jobs_running"))
    assert [(job.number, job.name, job.state) for job in jobs] == [
        ("8_4", "train", "RUNNING"),
        ("9", "one", "RUNNING"),
        ("8_3", "train", "SUSPENDED"),
    ]
    assert str(jobs[1]) == "9 (one, debian, RUNNING)"


@pytest.mark.parametrize("text", ["", '{"jobs": [{"job_id": 1}]}', '{"jobs": null}'])
def test_what_is_no_list_of_jobs(text: str) -> None:
    with pytest.raises(StateError, match="expected"):
        parse_jobs(text)


def test_a_reason_is_marked_one_line_and_short() -> None:
    assert own_reason(" a\n b ") == f"{MARKER}a b"
    long = own_reason("x" * 1000)
    assert len(long) == MOST_OF_A_REASON
    assert long.endswith("...")


def test_the_same_in_another_order_and_case() -> None:
    assert same_gres("gpu:a:1,gpu:b:2", "gpu:B:2(S:0-1),gpu:a:1")
    assert same_gres("", "gpu:a:0")
    assert not same_gres("gpu:a:1", "gpu:a:2")
    assert not same_gres("gpu:a:1", "shard:a:1")
    assert same_gres("gpu:a:1,gpu:b:1,shard:8", "gpu:a:1,gpu:b:1,shard:a:4(S:0),shard:b:4,mps:a:0")
    assert not same_gres("gpu:a:1,mps:100", "gpu:a:1,mps:a:50")
    with pytest.raises(GresSyntaxError):
        same_gres("gpu:", "")


def test_what_a_node_has_before_and_after() -> None:
    assert common_gres("gpu:a:1,gpu:b:4,gpu:c:2", "gpu:B:2,gpu:c:3,gpu:d:1") == "gpu:b:2,gpu:c:2"
    assert common_gres("gpu:a:1", "gpu:b:1") == ""
    assert common_gres("gpu:a:1,shard:8", "gpu:a:1,shard:a:4") == "gpu:a:1,shard:4"
