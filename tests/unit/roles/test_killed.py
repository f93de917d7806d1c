# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run that was killed leaves behind, and what the next one makes of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[3] / "roles"


class Play(Protocol):
    def __call__(self, hosts: Any, tasks: Any) -> str: ...


def task_of(file: str, name: str) -> dict[str, Any]:
    tasks: list[dict[str, Any]] = yaml.safe_load((ROLES / file).read_text())
    (task,) = [task for task in tasks if task["name"] == name]
    return task


@pytest.mark.parametrize(
    ("found", "says_no", "left"),
    [
        (None, True, None),
        ("#!/bin/sh\n# hpc.compute\nexit 101\n", True, None),
        ("", True, None),
        ("#!/bin/sh\n# the site's\nexit 104\n", False, "#!/bin/sh\n# the site's\nexit 104\n"),
    ],
    ids=["none", "ours", "ours, cut off", "the site's"],
)
def test_packages_are_configured_without_their_services(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str | None, says_no: bool, left: str | None
) -> None:
    """dpkg's lock is waited for, and a policy that an earlier run left behind does not pass for the site's."""
    policy, calls, said = tmp_path / "policy-rc.d", tmp_path / "calls", tmp_path / "said"
    if found is not None:
        policy.write_text(found)
        policy.chmod(0o755)
    tools = tmp_path / "bin"
    tools.mkdir()
    dpkg = tools / "dpkg"
    dpkg.write_text(
        f'#!/bin/sh\necho "$@" >>{calls}\n'
        f"if [ $(wc -l <{calls}) -lt 2 ]; then\n"
        "  echo 'dpkg: error: dpkg frontend lock was locked by another process with pid 712' >&2; exit 2\nfi\n"
        f"{policy}; echo $? >{said}\n"
    )
    dpkg.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    task = task_of("apt_packages/tasks/repair.yml", "Configure the packages that are only unpacked")
    play({"n1": {"__apt_packages_policy_rc": str(policy)}}, [{**task, "delay": 0}])
    assert calls.read_text() == "--configure --pending\n" * 2
    assert said.read_text().strip() == ("101" if says_no else "104")
    assert (policy.read_text() if policy.exists() else None) == left


def test_a_failure_of_dpkg_itself_is_not_waited_for(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, calls = tmp_path / "policy-rc.d", tmp_path / "calls"
    dpkg = tmp_path / "dpkg"
    dpkg.write_text(f"#!/bin/sh\necho again >>{calls}\necho 'dpkg: error processing package slurmd' >&2; exit 1\n")
    dpkg.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    task = task_of("apt_packages/tasks/repair.yml", "Configure the packages that are only unpacked")
    output = play({"n1": {"__apt_packages_policy_rc": str(policy)}}, [{**task, "delay": 0}])
    assert "failed=1" in output
    assert calls.read_text() == "again\n"
    assert not policy.exists()


def test_the_package_of_the_drivers_library_is_whole_or_not_there(play: Play, tmp_path: Path) -> None:
    folder = tmp_path / "nvml-library"
    (folder / "DEBIAN").mkdir(parents=True)
    control = (ROLES / "apt_packages/files/nvml-library.control").read_text()
    (folder / "DEBIAN/control").write_text(control)
    Path(f"{folder}.new").write_text("half a package")
    task = task_of("apt_packages/tasks/nvml_provider.yml", "Build the package that stands for the driver's library")
    (command,) = [value for key, value in task.items() if key.endswith("command")]
    assert command["creates"].endswith(".deb")
    output = play({"n1": {"__apt_packages_nvml_provider": str(folder)}}, [task])
    assert "changed=1" in output, output
    told = subprocess.run(["dpkg-deb", "--field", f"{folder}.deb", "Package"], capture_output=True, text=True)
    assert told.stdout.strip() == "hpc-compute-nvml-library"
    assert not Path(f"{folder}.new").exists()


def test_the_directory_of_apptainer_is_made_where_it_is_missing(play: Play, tmp_path: Path) -> None:
    task = task_of("container_runtime/tasks/configure.yml", "Make the directory for temporary files")
    conf = "/etc/tmpfiles.d/hpc-compute-apptainer.conf"

    def host(changed: list[str], there: bool, image: bool = False, directory: str = "/d") -> dict[str, Any]:
        return {
            "container_runtime_directory": directory,
            "__container_runtime_tmpfiles": conf,
            "__container_runtime_image": image,
            "__container_runtime_written": {"changed_files": changed},
            "__container_runtime_info": {"temporary_there": there},
        }

    hosts = {
        "first": host([conf], there=False),
        "changed": host([conf], there=True),
        "second": host([], there=True),
        "killed": host([], there=False),
        "image": host([], there=False, image=True),
        "none": host([], there=True, directory=""),
    }
    made = {"ansible.builtin.file": {"path": f"{tmp_path}/{{{{ inventory_hostname }}}}.made", "state": "touch"}}
    output = play(hosts, [{**made, "when": task["when"]}])
    assert "failed=1" not in output, output
    assert sorted(path.stem for path in tmp_path.glob("*.made")) == ["changed", "first", "killed"]
