# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found as values, and the one line that Slurm gets of it."""

from __future__ import annotations

import json

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.health.model import (
    MARKER,
    MOST_OF_A_REASON,
    CheckResult,
    Report,
    drain_reason,
    fault,
    from_json,
    names_of,
    note,
    to_json,
    unknown,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.states import MARKER as OTHER_MARKER

FAULT, NOTE, UNKNOWN = fault("/a", "is broken"), note("", "is odd"), unknown("", "is not known")


def report(*checks: CheckResult) -> Report:
    return Report("n1", 1000.0004, 0.25, checks)


@pytest.mark.parametrize(
    ("findings", "status"),
    [((), "ok"), ((NOTE,), "note"), ((NOTE, UNKNOWN), "unknown"), ((NOTE, UNKNOWN, FAULT), "fault")],
)
def test_a_check_is_as_bad_as_its_worst_finding(findings: tuple[object, ...], status: str) -> None:
    check = CheckResult("disk", "drain", findings)  # type: ignore[arg-type]
    assert check.status == status
    assert CheckResult("disk", "off", check.findings).status == "off"


def test_only_faults_of_checks_that_drain_do() -> None:
    checks = (
        CheckResult("xid", "drain", (NOTE, UNKNOWN)),
        CheckResult("disk", "warn", (FAULT,)),
        CheckResult("clock", "off", (FAULT,)),
    )
    assert report(*checks).healthy
    assert not report(*checks).complete
    assert report(*checks).reason == ""
    sick = report(*checks, CheckResult("mounts", "drain", (FAULT, NOTE, fault("", "more"))))
    assert not sick.healthy
    assert sick.faulty == ("mounts",)
    assert sick.reason == f"{MARKER}mounts: /a: is broken (1 more)"
    assert report().complete


def test_the_json_is_what_the_guide_says() -> None:
    checks = (CheckResult("disk", "drain", (FAULT,)), CheckResult("clock", "warn", (NOTE, UNKNOWN)))
    data = json.loads(json.dumps(report(*checks).to_dict()))
    assert data == {
        "schema": 1,
        "node": "n1",
        "time": 1000.0,
        "seconds": 0.25,
        "status": "unhealthy",
        "reason": f"{MARKER}disk: /a: is broken",
        "faults": 1,
        "notes": 1,
        "unknown": 1,
        "checks": [
            {
                "name": "disk",
                "mode": "drain",
                "status": "fault",
                "findings": [{"level": "fault", "subject": "/a", "message": "is broken"}],
            },
            {
                "name": "clock",
                "mode": "warn",
                "status": "unknown",
                "findings": [
                    {"level": "note", "subject": "", "message": "is odd"},
                    {"level": "unknown", "subject": "", "message": "is not known"},
                ],
            },
        ],
    }
    assert report(checks[1]).to_dict()["status"] == "unknown"
    assert report().to_dict()["status"] == "healthy"


def test_reasons_are_one_short_line_and_name_their_checks() -> None:
    reason = drain_reason(["xid", "ecc"], ['he said "no"\n' + "x" * 400, "b", "c"])
    assert reason.startswith(f"{MARKER}xid+ecc: he said 'no' xxx")
    assert reason.endswith("... (2 more)")
    assert len(reason) == MOST_OF_A_REASON
    assert names_of(reason) == {"xid", "ecc"}
    assert names_of("somebody: else") == frozenset()
    many = drain_reason([f"check{number}" for number in range(40)], ["a", "b"])
    assert many.endswith("... (1 more)")


def test_no_other_part_takes_such_a_drain_for_its_own() -> None:
    assert not MARKER.startswith(OTHER_MARKER)
    assert not OTHER_MARKER.startswith(MARKER)


def test_findings_travel_as_json() -> None:
    found = {"disk": [FAULT, NOTE], "ecc": []}
    assert from_json(json.loads(json.dumps(to_json(found)))) == found
