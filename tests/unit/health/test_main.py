# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command node-health: what it prints, tells Slurm and the journal, and how it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import syslog
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.command.bundle import NODE_HEALTH, bundle
from ansible_collections.hpc.compute.plugins.module_utils.health import main as main_file
from ansible_collections.hpc.compute.plugins.module_utils.health.main import RESULT, Outside, main, run_command
from ansible_collections.hpc.compute.plugins.module_utils.health.model import (
    MARKER,
    CheckResult,
    Finding,
    Report,
    fault,
    note,
    unknown,
)
from ansible_collections.hpc.compute.plugins.module_utils.health.run import Node
from ansible_collections.hpc.compute.plugins.module_utils.health.settings import SETTINGS, Settings
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from unit.slurm.controller import Controller

FAULT, NOTE, UNKNOWN = fault("/a", "is broken"), note("/b", "is odd"), unknown("/c", "is not known")


def _no_sleep(_seconds: float) -> None:
    pytest.fail("it waited")


@dataclass
class Program:
    root: Path
    monkeypatch: pytest.MonkeyPatch
    slurm: Controller = field(default_factory=Controller)
    environ: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    out: str = ""
    err: str = ""
    sleep: Callable[[float], None] = _no_sleep

    def __post_init__(self) -> None:
        self.environ["SLURMD_NODENAME"] = self.slurm.node["name"]

    def __call__(self, *words: str) -> int:
        out, err = io.StringIO(), io.StringIO()
        self.said.clear()
        outside = Outside(Node("", self.root), self.environ, self.slurm.run, self.said.append, out, err, self.sleep)
        code = main(words, outside)
        self.out, self.err = out.getvalue(), err.getvalue()
        return code

    def finds(self, *findings: Finding, check: str = "disk") -> None:
        """What a look at the node finds from now on."""

        def look(node: Node, _settings: Settings) -> Report:
            return Report(node.name, 0, 0, (CheckResult(check, "drain", findings),))

        self.monkeypatch.setattr(main_file, "look", look)

    def settings(self, text: str) -> None:
        path = self.root / SETTINGS
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("findings", "code"),
    [((), 0), ((NOTE,), 0), ((UNKNOWN,), 11), ((FAULT, UNKNOWN), 10)],
)
def test_how_it_ends(program: Program, findings: tuple[Finding, ...], code: int) -> None:
    program.finds(*findings)
    assert program("check") == code
    assert program("check", "--json") == code
    assert len(json.loads(program.out)["checks"][0]["findings"]) == len(findings)
    assert program.slurm.commands == []
    assert not (program.root / RESULT).exists()
    assert program.said == []


def test_for_a_person(program: Program) -> None:
    program.finds(FAULT, NOTE)
    program("check")
    assert program.out == "fault    disk\n         fault: /a: is broken\n         note: /b: is odd\n"


def test_a_fault_drains_and_is_told_once(program: Program) -> None:
    program.finds(FAULT, NOTE)
    assert program("check", "--drain") == 10
    reason = f"{MARKER}disk: /a: is broken"
    assert program.slurm.node["reason"] == reason
    assert program.said == [
        "fault of disk: /a: is broken",
        "note of disk: /b: is odd",
        f"node {program.slurm.node['name']} drained: {reason}",
    ]
    assert json.loads((program.root / RESULT).read_text())["reason"] == reason
    assert program("check", "--drain") == 10
    assert program.said == []
    program.finds(fault("/a", "is broken in other words"), fault("/d", "too"))
    program("check", "--drain")
    assert program.said == [
        "fault of disk: /d: too",
        f"node {program.slurm.node['name']} is DRAIN+IDLE ({reason}): drained for this already",
    ]


def test_the_drain_of_somebody_else_is_told_once(program: Program) -> None:
    program.slurm.node.update(state=["IDLE", "DRAIN"], reason="new fans")
    program.finds(FAULT)
    assert program("check", "--drain") == 10
    assert "drained by somebody else" in program.said[-1]
    program("check", "--drain")
    assert program.said == []
    assert program.slurm.updates == []


@pytest.mark.parametrize("check", ["layout", "devices", "gres"])
def test_what_may_be_over_in_a_moment_is_looked_at_again(program: Program, check: str) -> None:
    program.finds(FAULT, check=check)
    program.sleep = lambda _: program.finds(check=check)
    assert program("check", "--drain") == 0
    assert program.slurm.updates == []
    program.finds(FAULT, check=check)
    program.sleep = lambda _: None
    assert program("check", "--drain") == 10
    assert program.slurm.node["reason"].startswith(f"{MARKER}{check}: ")
    program.sleep = _no_sleep
    assert program("check") == 10


def test_a_result_that_cannot_be_read_or_written(program: Program) -> None:
    program.finds(NOTE)
    (program.root / RESULT).parent.mkdir(parents=True)
    (program.root / RESULT).write_text("{}")
    program("check", "--drain")
    assert program.said == ["note of disk: /b: is odd"]
    (program.root / RESULT).unlink()
    (program.root / RESULT).mkdir()
    assert program("check", "--drain") == 0
    assert "could not be written" in program.said[-1]


def test_a_node_is_resumed_where_that_is_set_up(program: Program) -> None:
    program.finds(FAULT)
    program("check", "--drain")
    program.finds()
    program("check", "--drain")
    assert "DRAIN" in program.slurm.node["state"]
    program.settings('{"resume": ["disk"]}')
    assert program("check", "--drain") == 0
    assert program.slurm.node["state"] == ["IDLE"]
    assert "resumed: all is well again" in program.said[0]


def test_a_controller_that_does_not_answer(program: Program) -> None:
    program.finds(FAULT)
    program.slurm.silent = 10
    assert program("check", "--drain") == 10
    assert program.said[-1].startswith("Slurm was not told: scontrol show node")


def test_its_name_in_slurm(program: Program) -> None:
    program.finds()
    program("check", "--json")
    assert json.loads(program.out)["node"] == program.slurm.node["name"]
    program("--node", "n7", "check", "--json")
    assert json.loads(program.out)["node"] == "n7"
    program.environ.clear()
    program("check", "--json")
    assert json.loads(program.out)["node"] == os.uname().nodename.partition(".")[0]


@pytest.mark.parametrize("hook", ["prolog", "epilog"])
def test_a_fault_before_or_after_a_job(program: Program, hook: str) -> None:
    reason = f"{MARKER}{hook}: it is gone"
    program.monkeypatch.setattr(main_file, hook, lambda *_: "")
    assert program(hook) == 0
    assert (program.said, program.slurm.commands) == ([], [])
    program.monkeypatch.setattr(main_file, hook, lambda *_: reason)
    assert program(hook) == 10
    assert program.slurm.node["reason"] == reason
    assert program.said == [f"node {program.slurm.node['name']} drained: {reason}"]
    program.slurm.silent = 10
    assert program(hook) == 10
    assert program.said[0].startswith(f"{reason}: Slurm was not told, and drains the node itself: ")
    assert (program.out, program.err) == ("", "")


def test_acknowledge(program: Program) -> None:
    assert program("acknowledge") == 0
    assert program.said == ["the Xids in the kernel log so far were acknowledged"]
    assert (program.root / "run/hpc-compute/node-health/acknowledged").exists()


def test_settings_that_cannot_be_used(program: Program, tmp_path: Path) -> None:
    program.settings('{"disk": 1}')
    for words in (["check"], ["epilog"], ["settings", str(tmp_path / SETTINGS)]):
        assert program(*words) == 2
        assert "expected only the keys" in program.err
    program.settings("{}")
    assert program("settings", str(tmp_path / SETTINGS)) == 0
    assert program("settings", str(tmp_path / "gone")) == 2
    assert "No such file" in program.err


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["heal"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
    assert "usage: node-health" in capsys.readouterr().err


def test_commands_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command(["sh", "-c", "echo a; echo b >&2; exit 3"]) == Completed(3, "a\n", "b\n")
    assert run_command(["/nonexistent/scontrol"]).rc == 127
    monkeypatch.setattr(main_file, "_SCONTROL_TIMEOUT", 0.1)
    assert run_command(["sleep", "60"]) == Completed(124, "", "no answer in 0.1 s")


def test_the_journal_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[Any] = []
    monkeypatch.setattr(syslog, "syslog", lambda level, text: lines.append(text))
    main_file.to_journal("one\n  two")
    assert lines == ["one two"]


def test_the_program_as_one_file(tmp_path: Path) -> None:
    program = tmp_path / "node-health"
    program.write_bytes(bundle(NODE_HEALTH))
    (tmp_path / "proc").mkdir()
    settings = tmp_path / SETTINGS
    settings.parent.mkdir(parents=True)
    settings.write_text('{"checks": {"xid": "off", "clock": "off"}, "disks": []}')
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    done = run(
        [sys.executable, "-I", program, "--root", str(tmp_path), "check", "--json"],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert (done.returncode, report["reason"]) == (0, ""), report
    assert [one["name"] for one in report["checks"] if one["status"] == "off"] == ["xid", "clock"]
