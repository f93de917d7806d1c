# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an examination finds on a node and in an image, and what it calls wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.health.model import CheckResult, Report, fault, unknown
from ansible_collections.hpc.compute.plugins.module_utils.health.run import Node
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.verify import examine, model, system
from ansible_collections.hpc.compute.plugins.module_utils.verify.model import Row

REPO = Path(__file__).resolve().parents[3]
Run = Callable[[Sequence[str]], Completed]


def answering(answers: Mapping[str, Completed | str]) -> Run:
    """Commands by a word of theirs; any other is a mistake of the test."""

    def run(command: Sequence[str]) -> Completed:
        for word, answer in answers.items():
            if word in command:
                return Completed(0, answer, "") if isinstance(answer, str) else answer
        raise AssertionError(f"unexpected command {command}")

    return run


def by_item(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    return {row.item: (row.state, row.detail) for row in rows}


def test_versions_are_those_of_whichever_package_is_there(tmp_path: Path) -> None:
    said = "installed\tslurm-smd-slurmd\t23.11.4-1\ninstalled\tmunge\t0.5.16-1\nconfig-files\tapptainer\t1.4.2\n"
    said += "installed\tbeegfs-client-dkms\t8.1.0\n"
    found = by_item(list(system.versions(tmp_path, answering({"dpkg-query": said}))))
    assert found["Slurm"] == ("ok", "slurm-smd-slurmd 23.11.4-1")
    assert found["munge"] == ("ok", "munge 0.5.16-1")
    assert found["Apptainer"] == ("absent", "")
    assert found["BeeGFS client"] == ("ok", "beegfs-client-dkms 8.1.0")
    assert "packages" not in found


def test_a_package_that_dpkg_did_not_finish_is_wrong(tmp_path: Path) -> None:
    said = "half-configured\tnvidia-open-kernel-dkms\t550.163.01-2\n"
    found = by_item(list(system.versions(tmp_path, answering({"dpkg-query": said}))))
    assert found["packages"] == ("wrong", "not fully installed: nvidia-open-kernel-dkms; see dpkg --audit")


def test_a_dpkg_that_fails_is_no_verdict(tmp_path: Path) -> None:
    (row,) = system.versions(tmp_path, answering({"dpkg-query": Completed(2, "", "no database\n")}))
    assert (row.state, row.detail) == ("unknown", "dpkg-query: exit code 2: no database")


@pytest.fixture
def two_kernels(tmp_path: Path) -> Path:
    for release in ("6.12.117+deb13-amd64", "6.12.118+deb13-amd64"):
        (tmp_path / "lib/modules" / release / "kernel").mkdir(parents=True)
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/sbin/dkms").touch()
    return tmp_path


def test_a_module_must_be_there_for_every_kernel(two_kernels: Path) -> None:
    said = "nvidia/550.163.01, 6.12.118+deb13-amd64, x86_64: installed\n"
    found = by_item(list(system.kernels(two_kernels, answering({"status": said}))))
    assert found["6.12.118+deb13-amd64"] == ("ok", "with nvidia/550.163.01")
    assert found["6.12.117+deb13-amd64"] == ("wrong", "not built for it: nvidia/550.163.01")


def test_a_dkms_that_fails_is_told(two_kernels: Path) -> None:
    found = by_item(list(system.kernels(two_kernels, answering({"status": Completed(4, "", "broken tree")}))))
    assert found["DKMS"] == ("unknown", "dkms status: exit code 4: broken tree")
    assert found["6.12.118+deb13-amd64"] == ("ok", "no DKMS modules")


def test_a_container_has_no_kernel(tmp_path: Path) -> None:
    assert by_item(list(system.kernels(tmp_path, answering({})))) == {"installed": ("absent", "")}


@pytest.fixture
def two_units(tmp_path: Path) -> Path:
    for name in ("munge.service", "slurmd.service"):
        path = tmp_path / "usr/lib/systemd/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_units_of_an_image_are_enabled(two_units: Path) -> None:
    run = answering({"is-enabled": Completed(1, "enabled\ndisabled\n", "")})
    found = by_item(list(system.units(two_units, run, live=False)))
    assert found == {
        "munge.service": ("ok", "enabled, not started"),
        "slurmd.service": ("wrong", "disabled, not started"),
    }


@pytest.mark.parametrize("live", [False, True])
def test_a_unit_that_is_off_on_purpose_is_not_wrong(tmp_path: Path, live: bool) -> None:
    names = ("munge.service", "slurmd.service", "nvidia-dcgm.service", "nvidia-persistenced.service")
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    for name in names:
        (tmp_path / "etc/systemd/system" / name).touch()
    run = answering(
        {
            "is-enabled": Completed(1, "enabled\ndisabled\nmasked\ndisabled\n", ""),
            "is-active": Completed(3, "active\ninactive\ninactive\nfailed\n", ""),
            "--failed": "",
        }
    )
    found = {name: state for name, (state, _) in by_item(list(system.units(tmp_path, run, live, names))).items()}
    assert found == {
        "munge.service": "ok",
        "slurmd.service": "wrong",
        "nvidia-dcgm.service": "absent",
        "nvidia-persistenced.service": "wrong" if live else "absent",
    }


def test_units_of_a_node_have_not_failed(two_units: Path) -> None:
    run = answering(
        {
            "is-enabled": "enabled\nenabled\n",
            "is-active": Completed(3, "active\nfailed\n", ""),
            "--failed": "slurmd.service loaded failed failed x\nsite.service loaded failed failed y\n",
        }
    )
    found = by_item(list(system.units(two_units, run, live=True)))
    assert found["munge.service"] == ("ok", "enabled, active")
    assert found["slurmd.service"] == ("wrong", "enabled, failed")
    assert found["site.service"][0] == "wrong"


def test_every_unit_that_a_role_ships_or_names_is_looked_at() -> None:
    shipped = {
        path.name
        for path in REPO.glob("roles/*/files/systemd/*")
        if path.is_file() and "\n[Install]\n" in path.read_text()
    }
    assert {"hpc-compute-join.path", "hpc-node-metrics@state.timer"} <= shipped
    assert shipped - set(system.UNITS) == set()
    named = "".join(path.read_text() for path in REPO.glob("roles/*/vars/main/*.yml"))
    named += "".join(path.read_text() for path in REPO.glob("roles/*/tasks/*.yml"))
    assert [name for name in system.UNITS if name not in shipped and name not in named] == []


def test_a_systemd_that_does_not_answer_is_no_verdict(two_units: Path) -> None:
    (row,) = system.units(two_units, answering({"is-enabled": Completed(124, "", "no answer")}), live=False)
    assert (row.item, row.state) == ("all", "unknown")


def test_nothing_that_is_known_is_installed(tmp_path: Path) -> None:
    assert list(system.units(tmp_path, answering({}), live=False)) == []


def test_an_image_is_judged_by_what_is_left_in_it(tmp_path: Path) -> None:
    for path in ("tmp/1", "tmp/2", "tmp/3", "tmp/4", "usr/share/zoneinfo/Europe/Athens"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    rows = examine.examine(Node("image", tmp_path), answering({"dpkg-query": ""}), image=True)
    hygiene = by_item([row for row in rows if row.subject == "hygiene"])
    assert hygiene["temporary files"] == ("wrong", "/tmp/1, /tmp/2, /tmp/3 and 1 more")
    assert hygiene["munge key"] == ("ok", "")
    assert by_item(rows)["stored"] == ("absent", "")
    assert by_item(rows)["gres.conf"] == ("absent", "follows from the GPUs of a machine, at its boot")
    assert hygiene["time zones"] == ("ok", "")
    assert hygiene["licences"] == ("wrong", "expected usr/share/doc/*/copyright, found none")
    assert not model.good(rows)
    assert not any(row.subject == "health" for row in rows)


def test_a_layout_in_an_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "etc/hpc-compute").mkdir(parents=True)
    (tmp_path / "etc/hpc-compute/gpu-layout.yml").touch()
    rows = examine.examine(Node("image", tmp_path), answering({"dpkg-query": ""}), image=True)
    assert by_item(rows)["stored"] == ("ok", "/etc/hpc-compute/gpu-layout.yml, cut at each boot")


def test_a_node_is_judged_by_its_health(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: Any) -> Report:
        checks = (
            CheckResult("driver", "drain", (fault("0000:3b:00.0", "does not answer"),)),
            CheckResult("clock", "off"),
            CheckResult("disk", "drain"),
            CheckResult("xid", "drain", (unknown("", "no journal"),)),
        )
        return Report("node", 0, 0, checks)

    monkeypatch.setattr(examine, "look", look)
    rows = examine.examine(Node("node", tmp_path), answering({"dpkg-query": ""}), image=False)
    health = by_item([row for row in rows if row.subject == "health"])
    assert health == {
        "driver": ("wrong", "0000:3b:00.0: does not answer"),
        "clock": ("absent", ""),
        "disk": ("ok", ""),
        "xid": ("unknown", "no journal"),
    }


def test_settings_that_can_not_be_used_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "etc/hpc-compute").mkdir(parents=True)
    (tmp_path / "etc/hpc-compute/node-health.json").write_text("[]")
    rows = examine.examine(Node("node", tmp_path), answering({"dpkg-query": ""}), image=False)
    assert by_item(rows)["settings"][0] == "wrong"


def test_the_table_is_aligned_and_an_unknown_is_no_fault() -> None:
    rows = [Row("version", "Slurm", "ok", "slurmd 24"), Row("health", "clock", "unknown")]
    assert model.table(rows) == [
        "SUBJECT  ITEM   STATE    WHAT THERE IS",
        "version  Slurm  ok       slurmd 24",
        "health   clock  unknown",
    ]
    assert model.good(rows)
    assert rows[0].to_dict() == {"subject": "version", "item": "Slurm", "state": "ok", "detail": "slurmd 24"}
