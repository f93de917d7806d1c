# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""slurmd is started with what is there or with what it ran with before, on a machine whose systemd answers as told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.daemon import DaemonError, Host, Slurmd
from ansible_collections.hpc.compute.plugins.module_utils.slurm.kept import Kept

CONF = Path("/etc/slurm")
OPTIONS = Path("/etc/default/slurmd")


@dataclass
class Machine:
    """A machine on which slurmd starts if *accepts* says so of its slurm.conf."""

    root: Path
    accepts: Callable[[str], bool] = lambda text: "bad" not in text
    state: dict[str, str] = field(default_factory=dict)
    said: str = "slurmd.service: Failed\nslurmd: error: no such plugin\nslurmd: fatal: giving up\n"
    asked: list[list[str]] = field(default_factory=list)
    time: float = 0.0
    blocked: bool = False
    waits: bool = False
    dies_later: bool = False
    pid: int = 100

    def __post_init__(self) -> None:
        known = {
            "ActiveState": "inactive",
            "MainPID": "0",
            "UnitFileState": "enabled",
            "KillMode": "process",
            "NeedDaemonReload": "no",
            "NRestarts": "0",
            "ExecMainStartTimestampMonotonic": "0",
            "LoadState": "loaded",
        }
        self.state = {**known, **self.state}
        (self.root / "etc/slurm").mkdir(parents=True)
        (self.root / "etc/default").mkdir()
        (self.root / "run").mkdir()
        self.write("good")

    def write(self, text: str) -> None:
        (self.root / "etc/slurm/slurm.conf").write_text(text)

    def conf(self) -> str:
        return (self.root / "etc/slurm/slurm.conf").read_text()

    def run(self, command: Sequence[str]) -> Completed:
        if command[0] == "journalctl":
            return Completed(0, self.said, "")
        words = list(command[1:])
        if words[0] != "show":
            self.asked.append(words)
        if words[0] == "enable":
            self.state["UnitFileState"] = "enabled"
        if words[0] == "daemon-reload":
            self.state.update(NeedDaemonReload="no", KillMode="process")
        if words[0] == "show":
            return Completed(0, "".join(f"{key}={value}\n" for key, value in self.state.items()), "")
        return self.restart() if "restart" in words else Completed(0, "", "")

    def restart(self) -> Completed:
        if self.blocked:
            self.state.update(ActiveState="inactive", MainPID="0")
            return Completed(1, "", "dependency")
        self.pid += 1
        self.state.update(MainPID=str(self.pid), ExecMainStartTimestampMonotonic=str(self.pid))
        if not self.accepts(self.conf()):
            self.state.update(ActiveState="activating", MainPID="0")
            return Completed(0 if self.waits else 1, "", "failed")
        started = self.root / "run/slurm"
        if started.exists():
            started.rmdir()
        started.mkdir()
        future = self.clock_of_files() + 10_000_000
        os.utime(started, ns=(future, future))
        self.state["ActiveState"] = "activating" if self.waits else "active"
        return Completed(0, "", "")

    def clock_of_files(self) -> int:
        return max(path.stat().st_ctime_ns for path in self.root.rglob("*") if path.is_file())

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        if self.dies_later and "bad" in self.conf():
            self.state.update(ActiveState="failed", MainPID="0")

    def slurmd(self, **other: object) -> Slurmd:
        host = Host(self.run, self.root, self.sleep, lambda: self.time, lambda: 4e9)
        return Slurmd(host, [CONF, OPTIONS], waits=self.waits, **other)  # type: ignore[arg-type]

    def changed_later(self, text: str) -> None:
        """Another configuration, written after the last start."""
        started = self.root / "run/slurm"
        os.utime(started, ns=(self.clock_of_files(), self.clock_of_files()))
        while self.clock_of_files() <= started.stat().st_mtime_ns:
            self.write(text)


def test_started_once_then_left_alone_then_restarted_for_a_change(tmp_path: Path) -> None:
    machine = Machine(tmp_path, state={"UnitFileState": "disabled"})
    assert machine.slurmd().due() == ["slurmd is inactive", "slurmd is not started at boot"]
    assert machine.slurmd().run()
    assert machine.asked == [["enable", "slurmd.service"], ["restart", "slurmd.service"]]
    assert not machine.slurmd().run()
    machine.changed_later("good, too")
    assert machine.slurmd().due() == ["changed since slurmd started: /etc/slurm/slurm.conf"]
    assert machine.slurmd().run()
    assert len(machine.asked) == 3
    assert machine.slurmd().run(restart=True)
    assert machine.slurmd().due(restart=True) == ["a restart was asked for"]
    assert len(machine.asked) == 4


def test_only_enabled_where_it_runs(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.slurmd().run()
    machine.state["UnitFileState"] = "disabled"
    assert machine.slurmd().run()
    assert machine.asked[1:] == [["enable", "slurmd.service"]]


def test_another_program_is_a_reason_and_a_time_to_come_is_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.slurmd().run()
    (tmp_path / "usr/sbin").mkdir(parents=True)
    machine.changed_later("good")
    machine.slurmd().run()
    os.utime(tmp_path / "run/slurm", ns=(0, 0))
    machine.run(["systemctl", "show"])
    (tmp_path / "usr/sbin/slurmd").touch()
    programs = [Path("/usr/sbin/slurmd"), Path("/nonexistent")]
    assert "/usr/sbin/slurmd" in machine.slurmd(programs=programs).stale()
    early = Host(machine.run, tmp_path, machine.sleep, lambda: 0, lambda: 1.0)
    assert Slurmd(early, [CONF], programs).stale() == []


@pytest.mark.parametrize("later", [False, True])
def test_what_it_refuses_is_taken_back(tmp_path: Path, later: bool) -> None:
    machine = Machine(tmp_path, dies_later=later)
    machine.slurmd().run()
    assert not machine.slurmd().keep(), "it was kept when it started"
    machine.changed_later("bad")
    (tmp_path / "etc/slurm/new.conf").write_text("new")
    (tmp_path / "etc/default/slurmd").write_text("new")
    if later:
        machine.accepts = lambda text: True
    with pytest.raises(DaemonError) as raised:
        machine.slurmd().run()
    assert str(raised.value) == (
        "slurmd did not start. It said: slurmd: error: no such plugin / slurmd: fatal: giving up. The files that it "
        "ran with before are back (/etc/default/slurmd, /etc/slurm/new.conf, /etc/slurm/slurm.conf), and it runs with "
        f"them. What it refused is in {tmp_path}/var/lib/hpc-compute/slurmd/refused. Correct the variables and run "
        "this again"
    )
    assert machine.conf() == "good"
    assert machine.state["ActiveState"] == "active"
    assert not (tmp_path / "etc/slurm/new.conf").exists()
    assert (tmp_path / "var/lib/hpc-compute/slurmd/refused/etc/slurm/slurm.conf").read_text() == "bad"
    assert not machine.slurmd().run()


def test_where_the_files_before_do_not_start_either(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.slurmd().run()
    machine.changed_later("bad")
    machine.accepts = lambda text: False
    with pytest.raises(DaemonError, match="but it does not start with them either: slurmd did not start"):
        machine.slurmd().run()
    assert machine.conf() == "good"
    with pytest.raises(DaemonError, match=r"The configuration is as it was\. Correct"):
        machine.slurmd().run()


def test_where_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    machine = Machine(tmp_path, said="")
    machine.write("bad")
    with pytest.raises(DaemonError, match=r"See journalctl .*\. The configuration is the first: there is no earlier"):
        machine.slurmd().run()


def test_what_slurmd_never_read_is_left(tmp_path: Path) -> None:
    machine = Machine(tmp_path, said="slurmd.service: Job failed with result 'dependency'.\n")
    machine.slurmd().run()
    machine.changed_later("good, too")
    machine.blocked = True
    with pytest.raises(DaemonError, match=r"result 'dependency'\. Its configuration was left as it is: slurmd has not"):
        machine.slurmd().run()
    assert machine.conf() == "good, too"


def test_a_unit_that_would_end_jobs_is_not_restarted(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.slurmd().run()
    machine.state["KillMode"] = "control-group"
    with pytest.raises(DaemonError, match="found control-group: a restart would end running jobs"):
        machine.slurmd().run(restart=True)
    machine.state["NeedDaemonReload"] = "yes"  # the drop-in that says otherwise is there already
    assert machine.slurmd().run(restart=True)
    assert ["daemon-reload"] in machine.asked


def test_nobody_waits_for_a_controller(tmp_path: Path) -> None:
    machine = Machine(tmp_path, waits=True)
    assert machine.slurmd().run()
    assert machine.asked == [["--no-block", "restart", "slurmd.service"]]
    assert machine.state["ActiveState"] == "activating"
    assert not machine.slurmd().run(), "it waits already"
    machine.state["ActiveState"] = "active"
    assert machine.slurmd().keep()
    machine.changed_later("bad")
    with pytest.raises(DaemonError, match="The files that it ran with before are back"):
        machine.slurmd().run()
    for trouble in ({"ActiveState": "failed"}, {"NRestarts": "1"}):
        machine.accepts = lambda text: True
        assert machine.slurmd().run(restart=True)
        machine.changed_later("bad")
        machine.restart = _then(machine.restart, machine, trouble)  # type: ignore[method-assign]
        with pytest.raises(DaemonError, match="slurmd did not start"):
            machine.slurmd().run()
        del machine.restart
        machine.state["NRestarts"] = "0"


def _then(real: Callable[[], Completed], machine: Machine, trouble: dict[str, str]) -> Callable[[], Completed]:
    def restart() -> Completed:
        done = real()
        machine.state.update(trouble)
        return done

    return restart


def test_kept_only_while_it_runs_with_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert not machine.slurmd().keep(), "it does not run"
    machine.slurmd().run()
    machine.changed_later("other")
    assert not machine.slurmd().keep(), "it has not read that"


def test_a_machine_without_the_unit_or_without_systemd(tmp_path: Path) -> None:
    machine = Machine(tmp_path, state={"LoadState": "not-found"})
    with pytest.raises(DaemonError, match=r"expected the unit slurmd\.service, found none: install slurmd"):
        machine.slurmd().run()
    silent = Slurmd(Host(lambda command: Completed(1, "", "no systemd\n"), tmp_path), [CONF])
    with pytest.raises(DaemonError, match=r"expected systemctl to tell ActiveState.*found: no systemd"):
        silent.due()


def test_copies_survive_a_kill_and_keep_their_owner(tmp_path: Path) -> None:
    (tmp_path / "etc/slurm").mkdir(parents=True)
    conf = tmp_path / "etc/slurm/slurm.conf"
    conf.write_text("one")
    conf.chmod(0o640)
    kept = Kept([CONF], tmp_path)
    assert kept.differences() == []
    assert kept.restore() == []
    assert kept.save()
    assert not kept.save()
    (tmp_path / "var/lib/hpc-compute/slurmd/kept").rename(tmp_path / "var/lib/hpc-compute/slurmd/kept.before")
    (tmp_path / "var/lib/hpc-compute/slurmd/kept.new").mkdir()
    conf.write_text("two")
    assert kept.restore() == ["etc/slurm/slurm.conf"]
    assert (conf.read_text(), conf.stat().st_mode & 0o777) == ("one", 0o640)
    conf.write_text("three")
    assert kept.save()
    assert kept.save() is False
    conf.unlink()
    assert kept.restore() == ["etc/slurm/slurm.conf"]
    assert conf.read_text() == "three"


def test_a_plugin_that_only_jobs_would_miss_counts_as_refused(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "usr/lib/slurm").mkdir(parents=True)
    (tmp_path / "usr/lib/slurm/task_cgroup.so").touch()
    assert machine.slurmd().run()
    machine.changed_later("TaskPlugin=task/none_such\n")
    with pytest.raises(DaemonError, match=r"needs task_none_such.so.* are back \(/etc/slurm/slurm.conf\), and it runs"):
        machine.slurmd().run()
    assert machine.conf() == "good"


def test_a_slurm_conf_that_includes_what_is_not_there_counts_as_refused(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.slurmd().run()
    machine.changed_later("Include none.conf\n")
    with pytest.raises(DaemonError, match=r"none\.conf.* are back"):
        machine.slurmd().run()
