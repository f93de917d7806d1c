# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the trial does around the daemon; the daemon itself is in the integration tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm import trial
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.trial import Trial, TrialError

_CONF = """\
ClusterName=c
SlurmctldHost=real(10.0.0.1)
SlurmctldHost=backup
statesavelocation = /var/real SlurmctldPort=6817
# StateSaveLocation=/stays in a comment
AccountingStorageType=accounting_storage/slurmdbd
SuspendProgram="/bin/off now"
Include nodes.conf
PartitionName=main Nodes=ALL
"""
_SHOWN = (
    "NodeName=n1 Arch=x86_64 Gres=gpu:a:2(S:0-1) State=UNKNOWN\nNodeName=n2 Arch=x86_64 Gres=(null) State=UNKNOWN\n"
)


class Machine:
    """Runs a trial as systemd would; keeps what the folder had when the daemon was started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.states = ["activating 0", "active 0", "active 7"]
        self.starts = Completed(0, "", "")
        self.answers = [Completed(1, "", "Unable to contact slurm controller"), Completed(0, _SHOWN, "")]
        self.says = ""
        self.fails = ""
        self.commands: list[Sequence[str]] = []
        self.seen: dict[str, str] = {}

    def run(self, command: Sequence[str]) -> Completed:
        self.commands.append(command)
        if command[0] == self.fails:
            return Completed(1, "", "not there")
        if command[0] == "hostname":
            return Completed(0, "real\n", "")
        if command[0] == "systemd-run":
            (work,) = self.folder.glob("hpc-compute-trial-*")
            self.seen = {str(one.relative_to(work)): one.read_text() for one in work.rglob("*") if one.is_file()}
            (work / "stderr").write_text(self.says)
            return self.starts
        if command[:2] == ["systemctl", "show"]:
            state, pid = (self.states.pop(0) if len(self.states) > 1 else self.states[0]).split()
            return Completed(0, f"MainPID={pid}\nActiveState={state}\n", "")
        if command[0] == "nsenter":
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Completed(0, "", "")

    def trial(self) -> Trial:
        return Trial(self.run, "/usr/sbin/slurmctld", "slurm", 5, lambda: self.now, self._sleep, self.folder)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "slurm.conf").write_text(_CONF)
    (folder / "nodes.conf").write_text("NodeName=n1 Gres=gpu:a:1\n")
    return folder / "slurm.conf"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "run").mkdir()
    return Machine(tmp_path / "run")


def test_a_copy_is_tried_and_nothing_stays(conf: Path, machine: Machine) -> None:
    before = {path.name: path.read_text() for path in conf.parent.iterdir()}
    nodes = "NodeName=n1 NodeAddr=10.0.0.9 Gres=gpu:a:2\nNodeName=n2 NodeAddr=n2-ib\n"
    machine.trial().try_files(conf, {conf.with_name("nodes.conf"): nodes})
    assert {path.name: path.read_text() for path in conf.parent.iterdir()} == before
    assert list(machine.folder.iterdir()) == []
    tried = machine.seen["etc/slurm.conf"]
    assert "# StateSaveLocation=/stays in a comment\n" in tried
    assert "SlurmctldPort=6817" in tried
    assert not {"real(10.0.0.1)", "backup", "/var/real", "slurmdbd", "/bin/off"} & set(tried.replace("=", " ").split())
    assert "now" not in tried
    assert tried.count("SlurmctldHost=real(192.0.2.1)\n") == 1
    assert machine.seen["etc/nodes.conf"] == nodes
    assert machine.seen["hosts"].splitlines() == ["127.0.0.1 localhost", "192.0.2.1 n2-ib", "192.0.2.1 real"]
    (start,) = [command for command in machine.commands if command[0] == "systemd-run"]
    assert {"--property=PrivateNetwork=yes", "--property=ProtectSystem=strict", "--property=User=slurm"} <= set(start)
    assert start[-5:] == ["/usr/sbin/slurmctld", "-D", "-c", "-f", str(conf)]
    (unit,) = [word.partition("=")[2] for word in start if word.startswith("--unit=")]
    assert ["systemctl", "kill", "--signal=KILL", unit] in machine.commands


def test_files_outside_of_the_folder_are_not_written(conf: Path, machine: Machine, tmp_path: Path) -> None:
    outside = tmp_path / "site.conf"
    outside.write_text("JobCompType=jobcomp/mysql\nNodeName=n2\n")
    inside = conf.with_name("inside.conf")
    inside.write_text("JobCompLoc=/var/real\n")
    conf.write_text(_CONF + f"Include {outside}\nInclude {inside}\n")
    machine.trial().try_files(conf, {conf.with_name("nodes.conf"): "NodeName=n1 Gres=gpu:a:2\n"})
    assert outside.read_text().startswith("JobCompType")
    assert inside.read_text().startswith("JobCompLoc")
    assert machine.seen["outside-0"] == "\nNodeName=n2\n"
    assert machine.seen["etc/inside.conf"] == "\n"
    (start,) = [command for command in machine.commands if command[0] == "systemd-run"]
    assert any(word.endswith(f"outside-0:{outside}") for word in start)


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_is_not_made_yet_is_not_waited_for(
    conf: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    local = tmp_path / "local.conf"
    if there:
        local.touch()
    monkeypatch.setattr(trial, "LOCAL_GRES_CONF", str(local))
    files = {
        conf.with_name("nodes.conf"): "NodeName=n1 Gres=gpu:a:2\nNodeName=n2\n",
        conf.with_name("gres.conf"): f"# made\nInclude {local}\n",
    }
    machine.trial().try_files(conf, files)
    assert (f"Include {local}" in machine.seen["etc/gres.conf"]) is there


def refused(conf: Path, machine: Machine, nodes: str = "NodeName=n1 Gres=gpu:a:2\nNodeName=n2\n") -> str:
    with pytest.raises(TrialError) as error:
        machine.trial().try_files(conf, {conf.with_name("nodes.conf"): nodes})
    assert list(machine.folder.iterdir()) == []
    return str(error.value)


def test_what_slurmctld_says_is_told(conf: Path, machine: Machine) -> None:
    machine.states = ["activating 0", "failed 0"]
    machine.says = "slurmctld: error: first\nslurmctld: error: less\nerror: at line 3\n"
    machine.says += "[now] fatal: Duplicated NodeName n1\nslurmctld: fatal: Duplicated NodeName n1\n"
    told = "error: less; error: at line 3; fatal: Duplicated NodeName n1"
    assert refused(conf, machine) == f"slurmctld does not start with these files: {told}"
    machine.says = "slurmctld: error: one\n"
    assert refused(conf, machine).endswith(": error: one")
    machine.says = ""
    assert refused(conf, machine).endswith("these files")


def test_one_that_never_answers(conf: Path, machine: Machine) -> None:
    machine.answers = [Completed(1, "", "Unable to contact slurm controller")]
    assert "does not answer 5 s after its start" in refused(conf, machine)


def test_systemd_that_cannot(conf: Path, machine: Machine) -> None:
    machine.starts = Completed(1, "", "Failed to set up network namespacing")
    assert "Failed to set up network namespacing. Where" in refused(conf, machine)


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ("NodeName=n1 X Gres=gpu:a:2 \n", "has no node n2"),
        (_SHOWN.replace("gpu:a:2", "gpu:2"), "reads Gres=gpu:a:2 of node n1 as gpu:2(S:0-1)"),
        (_SHOWN.replace("gpu:a:2", "gpu:2").replace("(null)", "gpu:1"), "and that of 1 other nodes"),
        (_SHOWN.replace("gpu:a:2", "gpu:a:b:c:2"), "has a Gres that can't be read"),
    ],
)
def test_it_must_have_the_nodes(conf: Path, machine: Machine, shown: str, why: str) -> None:
    machine.answers = [Completed(0, shown, "")]
    assert why in refused(conf, machine)


def test_a_folder_that_cannot_be_copied(conf: Path, machine: Machine) -> None:
    conf.write_text("Include none.conf\n")
    assert "expected to copy" in refused(conf, machine)


@pytest.mark.parametrize(
    ("command", "why"), [("hostname", "this machine's name"), ("chown", "expected the user slurm")]
)
def test_a_machine_that_lacks_something(conf: Path, machine: Machine, command: str, why: str) -> None:
    machine.fails = command
    assert why in refused(conf, machine)
