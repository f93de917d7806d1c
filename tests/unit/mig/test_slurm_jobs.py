# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that was given a slice is in no list of processes until it opens it, and must not lose it all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.mig.slurm_jobs import running_jobs
from unit.mig.apply_machine import machine


def process(proc: Path, name: str, command: str | None, namespace: str | None = "pid:[1]") -> None:
    directory = proc / name
    (directory / "ns").mkdir(parents=True)
    if command is not None:
        (directory / "cmdline").write_text(command)
    if namespace is not None:
        (directory / "ns/pid").symlink_to(namespace)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    found = tmp_path / "proc-of-jobs"
    process(found, "self", "gpu-layout\0")
    return found


def test_jobs_are_told_by_their_step_daemons(proc: Path) -> None:
    process(proc, "90", "slurmstepd: [7.batch]\0")
    process(proc, "91", "slurmstepd: [7.0]\0")
    process(proc, "92", "slurmstepd: [12.extern]\0")
    process(proc, "93", "vim\0slurmstepd: [13.0]\0")
    process(proc, "94", "slurmstepd: [14.0]\0", namespace="pid:[2]")
    process(proc, "95", "slurmstepd: [15.0]\0", namespace=None)
    process(proc, "96", None)
    assert running_jobs(proc) == [7, 12]


def test_nothing_is_changed_under_a_job_unless_told(proc: Path, tmp_path: Path) -> None:
    process(proc, "90", "slurmstepd: [7.batch]\0")
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        emulated.host = replace(emulated.host, proc=proc)
        before = emulated.seen()
        outcome = emulated.apply({"1g.10gb": 7})
        assert emulated.seen() == before
        assert not outcome.changed
        assert "found job 7: " in outcome.failures[0]
        # what is right already needs no change, and so no drained node
        assert not emulated.apply({"3g.40gb": 1}).failed
        process(proc, "91", "slurmstepd: [8.batch]\0")
        assert "found jobs 7, 8: " in emulated.apply({"1g.10gb": 7}).failures[0]
        assert not emulated.apply({"1g.10gb": 7}, on_busy="destroy").failed
        assert len(emulated.ids()) == 7
