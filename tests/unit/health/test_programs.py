# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small programs that Slurm runs: what makes them fail, and what must not."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

_PROGRAMS = Path(__file__).resolve().parents[3] / "roles/slurm_compute/files/libexec"


class Slurm:
    """Runs a program with its paths in a folder, and with stand-ins for what it calls that talks to the journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.touch()
        for name, text in {
            "logger": f'printf "%s\\n" "$*" >> {self.journal}',
            # as the real one, it becomes the program, whose words go to the journal
            "systemd-cat": f'shift; exec "$@" >> {self.journal} 2>&1',
        }.items():
            self.write(f"bin/{name}", f'#!/bin/sh\n[ "$1" = true ] && exit 0\n{text}\n')

    def write(self, name: str, text: str, mode: int = 0o755) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def node_health(self, script: str) -> None:
        self.write("sbin/node-health", f"#!/bin/sh\n{script}\n")

    def run(self, name: str, **environ: str) -> int:
        """Its exit code; it must have said nothing, as what it says may reach a job."""
        text = (_PROGRAMS / name).read_text()
        for path in ("/usr/sbin/node-health", "/etc/slurm/"):
            assert path in text
        text = text.replace("/usr/sbin/", f"{self.folder}/sbin/").replace("/etc/slurm/", f"{self.folder}/slurm/")
        text = text.replace("=/run/", f"={self.folder}/run/")
        self.write(name, text)
        done = subprocess.run(
            [self.folder / name],
            env={"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **environ},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("", "")
        return done.returncode

    def said(self) -> str:
        return self.journal.read_text()


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


@pytest.mark.parametrize("name", ["prolog", "epilog"])
@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 10", 1), ("exit 1", 0), ("exit 2", 0), ("exit 11", 0), ("kill -9 $$", 0)],
)
def test_only_a_fault_of_the_node_fails(slurm: Slurm, name: str, script: str, code: int) -> None:
    slurm.node_health(f"echo what happened >&2; {script}")
    assert slurm.run(name, CUDA_VISIBLE_DEVICES="0") == code
    mistake = script not in ("exit 0", "exit 10")
    assert ("taken for success: what happened" in slurm.said()) == mistake


@pytest.mark.parametrize("name", ["prolog", "epilog", "health-check"])
def test_a_program_that_is_not_there_fails_nothing(slurm: Slurm, name: str) -> None:
    assert slurm.run(name, CUDA_VISIBLE_DEVICES="0") == 0
    assert "127" in slurm.said()


@pytest.mark.parametrize("name", ["prolog", "epilog"])
def test_the_sites_programs_run(slurm: Slurm, name: str) -> None:
    slurm.node_health(f'[ "$1" = {name} ]')
    program = "#!/bin/sh\necho $(basename $0) for job $SLURM_JOB_ID\n"
    for file in ("20-b.sh", "10-a"):
        slurm.write(f"slurm/{name}.d/{file}", program)
    # What editors and package managers leave, and what can't be run.
    slurm.write(f"slurm/{name}.d/10-a~", program)
    slurm.write(f"slurm/{name}.d/10-a.dpkg-old", program)
    slurm.write(f"slurm/{name}.d/README", "text", mode=0o644)
    assert slurm.run(name, CUDA_VISIBLE_DEVICES="0") == 0
    assert slurm.said() == "10-a for job 7\n20-b.sh for job 7\n"


def test_a_site_program_that_fails_fails_the_prolog(slurm: Slurm) -> None:
    slurm.node_health("exit 0")
    slurm.write("slurm/prolog.d/10-a", "#!/bin/sh\nexit 3\n")
    slurm.write("slurm/prolog.d/20-b", "#!/bin/sh\necho b ran\n")
    assert slurm.run("prolog") == 1
    assert "10-a exited with return code 3" in slurm.said()
    assert "b ran" not in slurm.said()


def test_every_program_of_the_epilog_runs_whatever_fails(slurm: Slurm) -> None:
    slurm.node_health("exit 10")
    slurm.write("slurm/epilog.d/10-a", "#!/bin/sh\nexit 3\n")
    slurm.write("slurm/epilog.d/20-b", "#!/bin/sh\necho b ran\n")
    assert slurm.run("epilog", CUDA_VISIBLE_DEVICES="0") == 1
    assert "b ran" in slurm.said()
    slurm.node_health("exit 0")
    assert slurm.run("epilog", CUDA_VISIBLE_DEVICES="0") == 1


@pytest.mark.parametrize("script", ["exit 0", "exit 10", "exit 11", "exit 1", "echo x; exit 2", "kill -9 $$"])
def test_the_health_check_never_fails(slurm: Slurm, script: str) -> None:
    slurm.node_health(f'[ "$*" = "check --drain" ] || exit 99; {script}')
    slurm.write("slurm/health.d/10-a", "#!/bin/sh\necho a ran\nexit 1\n")
    assert slurm.run("health-check") == 0
    assert "a ran" in slurm.said()
    assert ("exit code" in slurm.said().replace("return code", "")) == (
        script in ("exit 1", "echo x; exit 2", "kill -9 $$")
    )


def test_without_a_journal_the_sites_programs_run_all_the_same(slurm: Slurm) -> None:
    slurm.node_health("exit 0")
    slurm.write("bin/systemd-cat", "#!/bin/sh\nexit 1\n")
    slurm.write("slurm/prolog.d/10-a", f"#!/bin/sh\necho ran > {slurm.folder}/ran\n")
    assert slurm.run("prolog") == 0
    assert (slurm.folder / "ran").exists()


@pytest.mark.parametrize("name", ["prolog", "epilog"])
def test_jobs_without_gpus_do_not_wait_for_it(slurm: Slurm, name: str) -> None:
    slurm.node_health("exit 10")
    assert slurm.run(name) == 0
    assert slurm.run(name, CUDA_VISIBLE_DEVICES="0") == 1


def test_health_checks_do_not_pile_up(slurm: Slurm) -> None:
    slurm.node_health(f"echo ran >> {slurm.folder}/ran")
    slurm.run("health-check")
    with (slurm.folder / "run/hpc-compute/health-check.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert slurm.run("health-check") == 0
    slurm.run("health-check")
    assert (slurm.folder / "ran").read_text() == "ran\nran\n"
