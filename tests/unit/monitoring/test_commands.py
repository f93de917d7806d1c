# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands hpc-node-metrics and hpc-gpu-jobs, and the notes about jobs."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.command.bundle import bundle
from ansible_collections.hpc.compute.plugins.module_utils.gpu.inventory import read_inventory
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory
from ansible_collections.hpc.compute.plugins.module_utils.mig.lock import locked
from ansible_collections.hpc.compute.plugins.module_utils.monitoring import job_map, jobs, jobs_main
from ansible_collections.hpc.compute.plugins.module_utils.monitoring import main as metrics_main
from ansible_collections.hpc.compute.plugins.module_utils.monitoring.job_map import FOLDER, LOCK, JobMap
from ansible_collections.hpc.compute.plugins.module_utils.monitoring.probe import CollectError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.static import UUID_MAP
from emulator.testing import EmulatedDriver

from .recorded import Recorded, values


def prolog(root: Path, job: str, visible: str = "", word: str = "begin") -> str:
    err = io.StringIO()
    variables = {"SLURM_JOB_ID": job, **({"CUDA_VISIBLE_DEVICES": visible} if visible else {})}
    assert jobs_main.main(["--root", str(root), word], variables, err=err) == 0
    return err.getvalue()


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Inventory]:
    """A whole GPU and one of two GPU instances."""
    with EmulatedDriver("h100-80,h100-80=3g.40gb*2", root=tmp_path):
        yield read_inventory(tmp_path)


def uuids(inventory: Inventory) -> tuple[str, str, str]:
    whole, cut = inventory.gpus
    first, second = (one.compute_instances[0].uuid for one in cut.gpu_instances)
    assert whole.uuid is not None
    assert first is not None
    assert second is not None
    return whole.uuid, first, second


def instances(inventory: Inventory) -> tuple[str, str]:
    first, second = (f"1.{one.id}" for one in inventory.gpus[1].gpu_instances)
    return first, second


def test_jobs_come_and_go(tmp_path: Path, inventory: Inventory) -> None:
    whole, first, second = uuids(inventory)
    one, two = instances(inventory)
    (tmp_path / UUID_MAP).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / UUID_MAP).write_text(f"# place uuid files\n2 {whole} /dev/nvidia0\n")
    assert prolog(tmp_path, "7", f"{first},{second}") == ""
    assert prolog(tmp_path, "8", f"2,{second}") == ""
    assert prolog(tmp_path, "8", f"2,{second}") == "", "a prolog that runs twice"
    assert JobMap(tmp_path).devices() == {"0": ["8"], one: ["7"], two: ["7", "8"]}
    assert (tmp_path / FOLDER / two).read_text() == "7\n8\n"
    (tmp_path / FOLDER / "notes").write_text("of somebody else")
    assert prolog(tmp_path, "7", word="end") == ""
    assert JobMap(tmp_path).devices() == {"0": ["8"], two: ["8"]}
    assert prolog(tmp_path, "8", word="end") == ""
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["notes"]


def test_jobs_without_gpu_leave_no_trace(tmp_path: Path) -> None:
    assert prolog(tmp_path, "7") == prolog(tmp_path, "7", "NoDevFiles") == ""
    assert prolog(tmp_path, "7", word="end") == ""
    assert not (tmp_path / FOLDER).exists()


def test_whole_gpus_without_a_map_are_counted_by_their_device_files(tmp_path: Path) -> None:
    with EmulatedDriver("3xt4", root=tmp_path, shuffle_minors=True):
        by_minor = sorted(read_inventory(tmp_path).gpus, key=lambda gpu: gpu.minor or 0)
        assert prolog(tmp_path, "7", "1") == ""
        assert JobMap(tmp_path).devices() == {str(by_minor[1].index): ["7"]}


@pytest.mark.parametrize(
    ("job", "visible", "said"),
    [
        ("7", "0", "expected the map of Slurm's devices"),
        ("7", "GPU-0000", "expected a GPU or MIG device GPU-0000, the driver shows none"),
        ("x", "", "expected a job's number in SLURM_JOB_ID, found 'x'"),
    ],
)
def test_what_goes_wrong_is_told_and_keeps_no_job_from_starting(
    tmp_path: Path, inventory: Inventory, job: str, visible: str, said: str
) -> None:
    told = prolog(tmp_path, job, visible or uuids(inventory)[0])
    assert said in told
    assert len(told.splitlines()) == 1
    assert JobMap(tmp_path).devices() == {}


def test_a_place_that_the_map_lacks(tmp_path: Path, inventory: Inventory) -> None:
    (tmp_path / UUID_MAP).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / UUID_MAP).write_text("0 GPU-x /dev/nvidia0\n")
    assert "expected the device 5 that Slurm gave in" in prolog(tmp_path, "7", "5")


def test_files_that_cannot_be_had(tmp_path: Path, inventory: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    visible = uuids(inventory)[0]
    monkeypatch.setattr(job_map, "_WAIT_S", 0.0)
    with locked(tmp_path / LOCK, 1):
        assert "another change" in prolog(tmp_path, "7", visible)
    (tmp_path / FOLDER).write_text("no folder")
    assert "gpu-jobs" in prolog(tmp_path, "7", visible)


def test_show(tmp_path: Path, inventory: Inventory, capsys: pytest.CaptureFixture[str]) -> None:
    prolog(tmp_path, "7", uuids(inventory)[1])
    assert prolog(tmp_path, "", word="show") == ""
    assert capsys.readouterr().out == f"{instances(inventory)[0]} 7\n"


def test_the_collector_forgets_what_slurm_has_no_more(tmp_path: Path) -> None:
    machine = Recorded(tmp_path, {"squeue": "8\n9\n"})
    assert values(jobs.collect(machine.probe), "hpc_gpu_devices_with_job") == {(): 0}
    assert machine.asked == [], "Slurm is asked only when there is something to ask"
    notes = JobMap(tmp_path)
    notes.begin("7", ["0", "1.3"])
    notes.begin("8", ["1.3"])
    assert values(jobs.collect(machine.probe), "hpc_gpu_devices_with_job") == {(): 1}
    assert notes.devices() == {"1.3": ["8"]}
    jobs.collect(machine.probe)
    assert notes.devices() == {"1.3": ["8"]}


def test_without_slurms_answer_nothing_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Recorded(tmp_path, {"squeue": (1, "slurm_load_jobs error: Unable to contact slurm controller")})
    notes = JobMap(tmp_path)
    notes.begin("7", ["0"])
    with pytest.raises(CollectError, match="Unable to contact"):
        jobs.collect(machine.probe)
    assert notes.devices() == {"0": ["7"]}
    machine.answers = {"squeue": ""}
    monkeypatch.setattr(job_map, "_WAIT_S", 0.0)
    with locked(tmp_path / LOCK, 1), pytest.raises(CollectError, match="another change"):
        jobs.collect(machine.probe)
    (notes.folder / "1").mkdir()
    with pytest.raises(CollectError, match="expected the notes about jobs in"):
        jobs.collect(machine.probe)


# -- hpc-node-metrics ------------------------------------------------------------------------------------------------


def test_a_collector_that_fails_is_told_and_the_others_are_written(tmp_path: Path) -> None:
    machine = Recorded(tmp_path, {"scontrol": (1, "Unable to contact slurm controller")})
    machine.file("usr/sbin/slurmd")
    (tmp_path / metrics_main.FOLDER).mkdir(parents=True)
    err = io.StringIO()
    assert metrics_main.main(["state"], machine.probe, err) == 0
    assert err.getvalue().startswith("hpc-node-metrics: slurm: scontrol")
    text = (tmp_path / metrics_main.FOLDER / "hpc-compute-state.prom").read_text()
    assert 'hpc_collector_success{collector="slurm"} 0\n' in text
    assert 'hpc_collector_success{collector="jobs"} 1\n' in text
    assert "hpc_gpu_devices_with_job 0\n" in text
    assert "hpc_slurm_node_state" not in text


def test_printing_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert metrics_main.main(["system", "--print"], Recorded(tmp_path).probe) == 0
    assert "hpc_reboot_required" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    err = io.StringIO()
    assert metrics_main.main(["system"], Recorded(tmp_path).probe, err) == 1
    assert "hpc-compute-system.prom: No such file or directory; be root, and install" in err.getvalue()


@pytest.mark.parametrize("start", ["monitoring.main", "monitoring.jobs_main"])
def test_the_commands_run_from_one_file(tmp_path: Path, start: str) -> None:
    program = tmp_path / "program"
    program.write_bytes(bundle(start))
    program.chmod(0o755)
    done = subprocess.run([program, "--help"], capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert bundle(start) == program.read_bytes()
