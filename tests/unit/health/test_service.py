# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node is drained and resumed by what its report says, and only where nobody else has decided."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.health.model import (
    MARKER,
    CheckResult,
    Report,
    fault,
    unknown,
)
from ansible_collections.hpc.compute.plugins.module_utils.health.service import drain, resume
from ansible_collections.hpc.compute.plugins.module_utils.slurm.scontrol import ScontrolError
from unit.slurm.controller import Controller

REASON = f"{MARKER}xid: a: Xid 79"
WELL = CheckResult("xid", "drain")


def controller(states: list[str], reason: str = "") -> Controller:
    one = Controller()
    one.node.update(state=states, reason=reason)
    return one


def report(one: Controller, *checks: CheckResult) -> Report:
    return Report(one.node["name"], 0, 0, checks or (WELL,))


def drained(one: Controller, reason: str = REASON) -> tuple[str, bool]:
    return drain(one.scontrol(0), one.node["name"], reason)


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        (["IDLE"], ""),
        (["IDLE"], "an old reason that Slurm keeps after a resume"),
        (["MIXED"], REASON),
        (["DOWN", "NOT_RESPONDING"], "Not responding"),
        (["DOWN"], "Node unexpectedly rebooted"),
        (["DOWN"], ""),
        (["IDLE", "DRAIN"], f"{MARKER}disk: /: full"),
        (["DOWN"], f"{MARKER}disk: /: full"),
    ],
)
def test_a_node_nobody_else_has_taken_is_drained(states: list[str], reason: str) -> None:
    one = controller(states, reason)
    said, changed = drained(one)
    assert changed
    assert said == f"node {one.node['name']} drained: {REASON}"
    assert one.updates == [["scontrol", "update", f"NodeName={one.node['name']}", "State=DRAIN", f"Reason={REASON}"]]


@pytest.mark.parametrize(
    ("states", "reason", "words"),
    [
        (["IDLE", "DRAIN"], "new fans", "drained by somebody else"),
        (["IDLE", "DRAIN"], "hpc.compute: layout change", "drained by somebody else"),
        (["IDLE", "DRAIN"], "Prolog error", "drained by somebody else"),
        (["DOWN"], "burnt", "taken down by somebody else"),
        (["DRAIN", "ALLOCATED"], f"{MARKER}xid: b: Xid 48", "drained for this already"),
    ],
)
def test_what_somebody_else_decided_stays(states: list[str], reason: str, words: str) -> None:
    one = controller(states, reason)
    said, changed = drained(one)
    assert words in said
    assert not changed
    assert one.updates == []


@pytest.mark.parametrize("checks", [["xid"], ["all"]])
def test_what_a_job_left_outlives_what_a_check_finds_after_it(checks: list[str]) -> None:
    one = controller(["IDLE", "DRAIN"], f"{MARKER}epilog: memory")
    assert drained(one)[1]
    reason = f"{MARKER}epilog+xid: a: Xid 79"
    assert one.updates[-1][-1] == f"Reason={reason}"
    one.node.update(reason=reason)
    assert not drained(one)[1]
    said, changed = resume(one.scontrol(0), report(one), checks)
    assert "but epilog is not to be resumed" in said
    assert not changed


def test_a_controller_that_does_not_answer_is_told_of() -> None:
    one = controller(["IDLE"])
    one.silent = 1
    with pytest.raises(ScontrolError, match="no controller answered"):
        drained(one)


@pytest.mark.parametrize("checks", [["xid"], ["disk", "xid"], ["all"]])
def test_a_node_that_is_well_again_is_resumed_where_that_is_wanted(checks: list[str]) -> None:
    one = controller(["IDLE", "DRAIN"], REASON)
    said, changed = resume(one.scontrol(0), report(one), checks)
    assert (said, changed) == (f"node {one.node['name']} resumed: all is well again ({REASON})", True)
    assert one.updates == [["scontrol", "update", f"NodeName={one.node['name']}", "State=RESUME"]]


@pytest.mark.parametrize(
    ("reason", "checks", "words"),
    [
        (REASON, [], ""),
        (REASON, ["disk"], "but xid is not to be resumed by itself"),
        (f"{MARKER}disk+xid: /: full", ["disk"], "but xid is not to be resumed"),
        (f"{MARKER}epilog: memory", ["all"], "but epilog is not to be resumed"),
        (f"{MARKER}prolog: files", ["all", "devices"], "but prolog is not to be resumed"),
        ("new fans", ["all"], ""),
        ("hpc.compute: layout", ["all"], ""),
    ],
)
def test_any_other_drain_stays(reason: str, checks: list[str], words: str) -> None:
    one = controller(["IDLE", "DRAIN"], reason)
    said, changed = resume(one.scontrol(0), report(one), checks)
    assert (words in said) if words else (said == "")
    assert not changed
    assert one.updates == []


@pytest.mark.parametrize("finding", [fault("", "x"), unknown("", "x")])
def test_a_node_that_is_not_known_to_be_well_stays(finding: Any) -> None:
    one = controller(["IDLE", "DRAIN"], REASON)
    sick = report(one, CheckResult("xid", "drain", (finding,)))
    assert resume(one.scontrol(0), sick, ["all"]) == ("", False)
    assert one.commands == []


def test_a_node_in_service_needs_no_resume() -> None:
    one = controller(["IDLE"], REASON)
    assert resume(one.scontrol(0), report(one), ["all"]) == ("", False)
