# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm import takeover
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.publish import PublishError, pending, replace_file
from ansible_collections.hpc.compute.plugins.module_utils.slurm.scontrol import Scontrol, ScontrolError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.takeover import Service, differing, install

_GOOD = Completed(0, "", "")
_SILENT = Completed(1, "", "slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)")


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "slurm.conf"
    path.write_text("Include nodes.conf\n")
    (tmp_path / "nodes.conf").write_text("old\n")
    (tmp_path / "nodes.conf").chmod(0o640)
    return path


def _contents(conf: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in conf.parent.iterdir() if path != conf}


def test_files_are_written_and_taken_over(conf: Path) -> None:
    nodes, gres, gone = (conf.with_name(name) for name in ("nodes.conf", "gres.conf", "gone.conf"))
    gone.write_text("x")
    seen = {}
    changes = differing({conf: "Include nodes.conf\n", nodes: "new\n", gres: "made\n", gone: None})
    assert [(change.path.name, change.before) for change in changes] == [
        ("nodes.conf", "old\n"),
        ("gres.conf", None),
        ("gone.conf", "x"),
    ]
    install(conf, changes, lambda: seen.update(_contents(conf)))
    assert seen == {"nodes.conf": "new\n", "gres.conf": "made\n", pending(conf).name: ""}
    assert _contents(conf) == {"nodes.conf": "new\n", "gres.conf": "made\n"}
    assert nodes.stat().st_mode & 0o777 == 0o640
    assert gres.stat().st_mode & 0o777 == 0o644
    assert differing({nodes: "new\n", gone: None}) == []


def test_the_old_files_come_back(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = differing({conf.with_name("nodes.conf"): "new\n", conf.with_name("gres.conf"): "made\n"})

    def refuse() -> None:
        raise ScontrolError("no")

    with pytest.raises(ScontrolError, match="no"):
        install(conf, changes, refuse)
    assert _contents(conf) == {"nodes.conf": "old\n"}
    real = replace_file

    def full(path: Path, text: str) -> None:
        if path.name == "gres.conf":
            raise OSError(28, "No space left on device", str(path))
        real(path, text)

    monkeypatch.setattr(takeover, "replace_file", full)
    with pytest.raises(PublishError, match=r"gres\.conf: No space left on device; the old files are back"):
        install(conf, changes)
    assert _contents(conf) == {"nodes.conf": "old\n"}


def test_a_killed_run_is_remembered(conf: Path) -> None:
    changes = differing({conf.with_name("nodes.conf"): "new\n"})
    pending(conf).touch()  # written by it, with the files
    install(conf, changes)
    assert pending(conf).exists(), "nothing was taken over"
    with pytest.raises(ScontrolError):
        install(conf, [], lambda: _raise(ScontrolError("no")))
    assert pending(conf).exists(), "its files are still there"
    install(conf, [], lambda: None)
    assert not pending(conf).exists()


def _raise(error: Exception) -> None:
    raise error


def test_a_file_that_is_no_text(conf: Path) -> None:
    conf.with_name("gres.conf").write_bytes(b"\xff")
    with pytest.raises(PublishError, match="expected a readable text file"):
        differing({conf.with_name("gres.conf"): ""})


class Machine:
    """Answers commands by their first words; the last entry of a list is given for ever."""

    def __init__(self, **answers: list[Completed]) -> None:
        self.answers = answers
        self.commands: list[str] = []
        self.now = 0.0

    def run(self, command: Sequence[str]) -> Completed:
        self.commands.append(" ".join(command))
        answers = self.answers.get(f"{command[0]}_{command[1].replace('-', '_')}", [_GOOD])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def service(self) -> Service:
        return Service(self.run, Scontrol(self.run, 5, lambda: self.now, self._sleep))

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


def test_whether_a_controller_runs() -> None:
    up = Completed(0, "Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n", "")
    assert Machine(scontrol_ping=[up]).service().runs()
    down = Completed(1, "Slurmctld(primary) at a is DOWN\n", "")
    assert Machine(scontrol_ping=[down], systemctl_is_active=[Completed(0, "active\n", "")]).service().runs()
    assert not Machine(scontrol_ping=[down], systemctl_is_active=[Completed(3, "inactive\n", "")]).service().runs()


def test_reconfigure_waits_for_an_answer() -> None:
    machine = Machine(scontrol_show=[_SILENT, _SILENT, _GOOD])
    machine.service().reconfigure()
    assert machine.commands == ["scontrol reconfigure", *["scontrol show config"] * 3]
    with pytest.raises(ScontrolError, match="no controller answered"):
        Machine(scontrol_show=[_SILENT]).service().reconfigure()


def test_restart() -> None:
    machine = Machine()
    machine.service().restart()
    assert machine.commands == [
        "systemctl reset-failed slurmctld.service",
        "systemctl restart slurmctld.service",
        "scontrol show config",
    ]
    with pytest.raises(ScontrolError, match="failed: boom"):
        Machine(systemctl_restart=[Completed(1, "", "boom")]).service().restart()


def test_a_controller_that_ended_is_started_again() -> None:
    up, down = Completed(0, "at a is UP", ""), Completed(1, "at a is DOWN", "")
    assert "runs on" in Machine(scontrol_ping=[up]).service().revive()
    ended = Machine(scontrol_ping=[down], systemctl_is_active=[Completed(3, "failed\n", "")])
    assert ended.service().revive() == "The controller had ended; it was started again with the old files"
    assert "systemctl restart slurmctld.service" in ended.commands
    hangs = Machine(scontrol_ping=[up], scontrol_show=[_SILENT] * 7 + [_GOOD])
    assert "started again" in hangs.service().revive()
    dead = Machine(scontrol_ping=[down], systemctl_is_active=[Completed(3, "failed\n", "")], scontrol_show=[_SILENT])
    assert "does not answer" in dead.service().revive()
