# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes are drained and resumed, but never against somebody else's decision."""

from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.scontrol import Scontrol, ScontrolError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.service import (
    WaitError,
    drain,
    resume,
    wait_for_jobs,
    wait_until_registered,
)
from unit.slurm.controller import Controller

NODE = "j-a30"


def test_drain_and_resume() -> None:
    slurm = Controller()
    change = drain(slurm.scontrol(), NODE, "new layout")
    assert change.changed
    assert change.after.ours
    assert slurm.updates == [
        ["scontrol", "update", f"NodeName={NODE}", "State=DRAIN", "Reason=hpc.compute: new layout"]
    ]
    assert not drain(slurm.scontrol(), NODE, "new layout").changed
    assert drain(slurm.scontrol(), NODE, "it failed").after.reason == "hpc.compute: it failed"
    change = resume(slurm.scontrol(), NODE)
    assert change.changed
    assert not change.after.drained
    assert slurm.updates[-1] == ["scontrol", "update", f"NodeName={NODE}", "State=RESUME"]
    assert not resume(slurm.scontrol(), NODE).changed
    assert len(slurm.updates) == 3


def test_check_mode_tells_and_changes_nothing() -> None:
    slurm = Controller()
    change = drain(slurm.scontrol(), NODE, "new layout", check=True)
    assert change.changed
    assert change.after.ours
    slurm = Controller("node_drained")
    assert slurm.updates == []
    change = resume(slurm.scontrol(), NODE, check=True)
    assert change.changed
    assert not change.after.drained
    assert slurm.updates == []


@pytest.mark.parametrize("reason", ["fan broken", "", "Not responding"])
def test_a_drain_of_somebody_else_stays(reason: str) -> None:
    slurm = Controller("node_drained")
    slurm.node["reason"] = reason
    for change in (drain(slurm.scontrol(), NODE, "new layout"), resume(slurm.scontrol(), NODE)):
        assert not change.changed
        assert "drained by somebody else" in change.note
    assert slurm.updates == []


def test_waits_for_jobs() -> None:
    slurm = Controller("node_draining", jobs_end=30)
    wait_for_jobs(slurm.scontrol(), NODE, 60)
    assert slurm.now == 30
    assert slurm.commands[0][1] == f"--nodelist={NODE}"


def test_names_the_jobs_that_did_not_end() -> None:
    slurm = Controller("node_draining", jobs_end=30)
    with pytest.raises(WaitError, match=r"3 jobs still hold it: 8_4 \(train, debian, RUNNING\), 9 ") as failed:
        wait_for_jobs(slurm.scontrol(), NODE, 20)
    assert len(failed.value.jobs) == 3
    assert slurm.updates == []


def test_names_ten_jobs_and_counts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.hpc.compute.plugins.module_utils.slurm.service._MOST_JOBS_TOLD", 1)
    with pytest.raises(WaitError, match=r"RUNNING\) and 2 more\."):
        wait_for_jobs(Controller(jobs_end=9).scontrol(), NODE, 1)


def test_waits_for_the_node() -> None:
    slurm = Controller()
    assert wait_until_registered(slurm.scontrol(), NODE, 5).name == NODE
    assert wait_until_registered(slurm.scontrol(), NODE, 5, "gpu:nvidia_a30_1g.6gb:4,gpu:nvidia_a30:1").gres
    assert slurm.now == 0


@pytest.mark.parametrize(
    ("recorded", "gres", "says"),
    [
        ("node_idle", "gpu:nvidia_a30:2", r"to register with Gres=gpu:nvidia_a30:2; node j-a30 is IDLE, Gres=gpu:nvid"),
        ("node_idle", "", r"with Gres=\(none\)"),
        ("node_invalid", None, r"count reported lower"),
        ("node_not_responding", None, r"DRAIN\+UNKNOWN"),
    ],
)
def test_says_how_a_node_stands_that_does_not_register(recorded: str, gres: str | None, says: str) -> None:
    slurm = Controller(recorded)
    with pytest.raises(WaitError, match=says):
        wait_until_registered(slurm.scontrol(), NODE, 5, gres)
    assert slurm.now == 5


def test_is_patient_with_a_controller_that_restarts() -> None:
    slurm = Controller()
    slurm.silent = 5
    assert drain(slurm.scontrol(), NODE, "new layout").changed
    assert slurm.now == 5


def test_but_not_for_ever() -> None:
    slurm = Controller()
    slurm.silent = 100
    with pytest.raises(ScontrolError, match=r"no controller answered for 10 s: slurm_load_node error"):
        slurm.scontrol(10).node(NODE)
    assert slurm.now == 10


def test_a_resume_waits_until_the_controller_has_heard_of_the_node() -> None:
    slurm = Controller("node_drained")
    slurm.unheard_until = 7
    assert resume(slurm.scontrol(), NODE).changed
    assert slurm.now == 7
    slurm = Controller("node_drained")
    slurm.unheard_until = 99
    with pytest.raises(ScontrolError, match="State=RESUME failed with exit code 1: slurm_update error: Invalid node"):
        slurm.scontrol(10).resume(NODE)
    assert slurm.now == 10


def test_a_resume_whose_answer_was_lost_is_one() -> None:
    slurm = Controller("node_idle")  # it is, as the first of two requests was carried out
    slurm.unheard_until = 99
    slurm.scontrol(10).resume(NODE)
    assert slurm.now == 0


@pytest.mark.parametrize("said", ["slurm_update error: Connection reset by peer", "x: Socket timed out on send/recv"])
def test_a_connection_that_is_cut_is_no_refusal(said: str) -> None:
    slurm = Controller()
    slurm.refuses = said
    with pytest.raises(ScontrolError, match="no controller answered for 10 s"):
        slurm.scontrol(10).reconfigure()
    assert len(slurm.commands) == 11


def test_takes_a_refusal_for_one() -> None:
    slurm = Controller()
    slurm.refuses = "slurm_update error: Invalid user id"
    with pytest.raises(ScontrolError, match=r"State=RESUME failed with exit code 1: slurm_update error: Invalid user"):
        slurm.scontrol().resume(NODE)
    assert slurm.now == 0


def test_takes_what_it_can_not_read_for_a_failure() -> None:
    slurm = Scontrol(lambda command: Completed(0, "{}", ""))
    with pytest.raises(ScontrolError, match="expected Slurm's JSON with 'nodes'"):
        slurm.node(NODE)
    with pytest.raises(ScontrolError, match="expected Slurm's JSON with 'jobs'"):
        slurm.jobs(NODE)
    slurm = Scontrol(lambda command: Completed(1, "", ""))
    with pytest.raises(ScontrolError, match="exit code 1: no message"):
        slurm.node(NODE)


def test_reconfigures() -> None:
    slurm = Controller()
    slurm.scontrol().reconfigure()
    assert slurm.commands == [["scontrol", "reconfigure"]]
    slurm.refuses = "slurm_reconfigure error: Unspecified error"
    with pytest.raises(ScontrolError, match="scontrol reconfigure failed with exit code 1: slurm_reconfigure error"):
        slurm.scontrol().reconfigure()
