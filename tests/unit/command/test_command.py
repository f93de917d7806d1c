# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command gpu-layout on an emulated machine: what it prints, changes and returns."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.command import boot as boot_file
from ansible_collections.hpc.compute.plugins.module_utils.command.bundle import SHEBANG, bundle
from ansible_collections.hpc.compute.plugins.module_utils.command.main import Console, main
from ansible_collections.hpc.compute.plugins.module_utils.command.settings import SettingsError, read_settings
from ansible_collections.hpc.compute.plugins.module_utils.gpu import inventory as inventory_file
from ansible_collections.hpc.compute.plugins.module_utils.gpu.control import MigControl
from unit.mig.apply_machine import Machine, machine

HALVES = """\
version: v1
mig-configs:
  halves:
    - devices: all
      mig-enabled: true
      mig-devices: {half: 2}
  off:
    - devices: all
      mig-enabled: false
"""


@dataclass
class Said:
    code: int
    out: str
    err: str


class Command:
    """Runs the command on the machine, with its files below a folder."""

    def __init__(self, emulated: Machine) -> None:
        self.machine = emulated
        self.root = emulated.root

    def __call__(self, *words: str, encoding: str = "utf-8") -> Said:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        code = main(words, self.machine.host, Console(out, err))
        texts = []
        for stream in (out, err):
            stream.flush()
            stream.seek(0)
            texts.append(stream.read())
        return Said(code, *texts)

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def store(self, text: str = HALVES, config: str = "halves", **settings: str) -> None:
        self.write("etc/hpc-compute/gpu-layout.yml", text)
        lines = [f"config = {config}", *(f"{key} = {value}" for key, value in settings.items())]
        self.write("etc/hpc-compute/gpu-layout.conf", "\n".join(["[gpu-layout]", *lines, ""]))


@pytest.fixture
def h100(tmp_path: Path) -> Iterator[Command]:
    with machine("h100-80,l40s", tmp_path) as emulated:
        yield Command(emulated)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Command]:
    with machine("none", tmp_path) as emulated:
        yield Command(emulated)


# -- show, plan, apply -----------------------------------------------------------------------------------------------


def test_show_draws_for_every_terminal_and_has_all_as_json(h100: Command) -> None:
    assert "┌" in h100("show").out
    plain = h100("show", encoding="ascii")
    assert plain.code == 0
    assert plain.out.isascii()
    assert [gpu["board"] for gpu in json.loads(h100("show", "--json").out)["gpus"]] == ["h100_80", None]


def test_show_tells_problems(h100: Command) -> None:
    h100.machine.driver.lose(0)
    said = h100("show")
    assert said.code == 0
    assert "gpu-layout: GPU" in said.err
    assert "is lost" in said.err


def test_show_names_who_uses_what(h100: Command) -> None:
    h100.machine.apply({"1g.10gb": 1, "4g.40gb": 1}, devices=[0])
    instance = h100.machine.ids()["4g.40gb@0"]
    h100.machine.driver.busy(f"0/{instance}/0", os.getpid())
    h100.machine.driver.busy("1", os.getpid())
    assert h100("show").out.count(f"(pid {os.getpid()})") == 2
    assert "idle" in h100("show").out
    h100.machine.driver.fault("nvmlDeviceGetComputeRunningProcesses*", error="UNKNOWN")
    assert "idle" not in h100("show").out
    assert "use not known" in h100("show").out


def test_show_marks_all_that_a_process_keeps_from_being_changed(h100: Command) -> None:
    h100.machine.apply({"1g.10gb": 1, "4g.40gb": 1}, devices=[0])
    instance = h100.machine.ids()["4g.40gb@0"]
    h100.machine.driver.busy(f"0/{instance}", os.getpid())
    assert h100("show").out.count(f"(pid {os.getpid()})") == 1
    h100.machine.driver.idle(f"0/{instance}")
    assert h100("show").out.count("idle") == 3
    h100.machine.driver.busy("0", os.getpid())
    assert h100("show").out.count("idle") == 1  # the other GPU


def test_show_without_pynvml_still_draws(h100: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    said = h100("show")
    assert said.code == 0
    assert "the driver does not answer for this GPU" in said.out
    assert "python3-pynvml" in said.err


def test_plan_shows_the_steps_and_does_none(h100: Command) -> None:
    path = h100.write("new.yml", HALVES)
    said = h100("plan", str(path), "--config", "halves")
    assert said.code == 0, said.err
    assert "Steps:" in said.out
    assert "Switch MIG mode on." in said.out
    assert h100.machine.seen() == (False, False, ())
    data = json.loads(h100("plan", str(path), "--config", "halves", "--json").out)
    assert [step["action"] for step in data["steps"]][:1] == ["set_mode"]
    assert h100("plan", str(path), "--config", "off").out.endswith("Nothing to do.\n")


def test_plan_of_what_does_not_fit(h100: Command) -> None:
    path = h100.write("big.yml", HALVES.replace("half: 2", "half: 3"))
    said = h100("plan", str(path), "--config", "halves")
    assert (said.code, said.out) == (1, "")
    assert "the nearest layout that fits is 2 x 3g.40gb" in said.err
    assert said.err.count("\n") == 1
    assert json.loads(h100("plan", str(path), "--config", "halves", "--json").out)["refusals"]


def test_plan_says_that_a_reboot_comes_between(tmp_path: Path) -> None:
    with machine("a100-40", tmp_path) as emulated:
        command = Command(emulated)
        path = command.write("new.yml", HALVES)
        said = command("plan", str(path), "--config", "halves", "--reset", "never")
        assert "Then the machine must be rebooted" in said.out
        said = command("apply", str(path), "--config", "halves", "--reset", "never")
        assert said.code == 5
        assert "reboot the machine" in said.out


def test_apply_uses_the_stored_layout_and_settings(h100: Command) -> None:
    h100.store(stop_services="nvidia-dcgm")
    h100.machine.systemctl.running = {"nvidia-dcgm.service"}
    said = h100("apply")
    assert said.code == 0, said.err
    assert "is as wanted" in said.out
    assert h100.machine.seen()[2] == ((9, 0, (3,)), (9, 4, (3,)))
    assert h100.machine.systemctl.asked[0] == ["stop", "nvidia-dcgm.service"]
    assert h100("apply").out == "Nothing to do.\n"
    data = json.loads(h100("apply", "--config", "off", "--json", "--stop-service", "other").out)
    assert data["changed"]
    assert data["gpus"][0]["state"] == "wanted"


@pytest.mark.parametrize(("times", "code"), [(1, 3), (None, 4)])
def test_apply_that_fails_says_how_it_ended(times: int | None, code: int, h100: Command) -> None:
    h100.machine.apply({"7g.80gb": 1})
    h100.store()
    h100.machine.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", error="UNKNOWN", times=times)
    said = h100("apply")
    assert said.code == code
    assert said.err.startswith("gpu-layout: GPU 0000:")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["apply"], 2, "expected a readable layout file"),
        (["apply", "missing.yml"], 2, "missing.yml"),
        (["apply", "{root}/odd.yml"], 2, "line 1"),
        (["apply", "{root}/good.yml"], 2, "choose one of halves, off"),
        (["apply", "{root}/good.yml", "--config", "none"], 2, "found 'none'"),
    ],
)
def test_arguments_that_cannot_be_used(words: list[str], code: int, told: str, h100: Command) -> None:
    h100.write("odd.yml", "version: v1\n")
    h100.write("good.yml", HALVES)
    said = h100(*(word.format(root=h100.root) for word in words))
    assert said.code == code
    assert told in said.err
    assert said.err.count("\n") == 1


def test_wrong_words_end_with_usage(h100: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["no-such"], ["plan", "--reset", "maybe"]):
        with pytest.raises(SystemExit) as ended:
            main(words, h100.machine.host)
        assert ended.value.code == 2
    assert "usage: gpu-layout" in capsys.readouterr().err


# -- gres and export -------------------------------------------------------------------------------------------------


def test_gres_prints_what_slurm_conf_needs(h100: Command) -> None:
    h100.store()
    h100("apply")
    said = h100("gres")
    assert said.out.splitlines()[0] == "Gres=gpu:nvidia_h100_80gb_hbm3_3g.40gb:2,gpu:nvidia_l40s:1"
    assert said.out.splitlines()[1] == "GresTypes=gpu"
    assert len(json.loads(h100("gres", "--json").out)["devices"]) == 3


def test_gres_of_a_gpu_with_nothing_to_offer_is_refused(h100: Command) -> None:
    h100.write("empty.yml", HALVES.replace("{half: 2}", "{}"))
    assert h100("apply", str(h100.root / "empty.yml"), "--config", "halves").code == 0
    said = h100("gres")
    assert said.code == 1
    assert "has no compute instance" in said.err


@pytest.mark.parametrize(
    "spec", ["h100-80=3g.40gb:1g.10gb*2,h100-80,h100-80=,a30=2g.12gb:1g.6gb", "rtxpro6000=1g.24gb-me:2g.48gb", "none"]
)
def test_export_is_a_layout_that_changes_nothing(spec: str, tmp_path: Path) -> None:
    with machine(spec, tmp_path) as emulated:
        command = Command(emulated)
        exported = command("export")
        assert exported.code == 0
        if spec == "none":
            assert exported.out == "version: v1\nmig-configs:\n  current: []\n"
            return
        path = command.write("current.yml", exported.out)
        assert command("plan", str(path)).out.endswith("Nothing to do.\n")


def test_export_of_compute_instances(h100: Command) -> None:
    h100.machine.apply({"1c.3g.40gb": 3, "2c.4g.40gb": 2})
    path = h100.write("current.yml", h100("export").out)
    assert "1c.3g.40gb" in path.read_text()
    assert h100("plan", str(path)).out.endswith("Nothing to do.\n")


def test_export_says_what_the_format_cannot_say(h100: Command) -> None:
    # Two GPU instances with one small compute instance each: counts would put both into one.
    with h100.machine.runner() as runner:
        from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Placement
        from ansible_collections.hpc.compute.plugins.module_utils.mig.steps import (
            CreateComputeInstance,
            CreateGpuInstance,
            SetMode,
        )

        steps: list[Any] = [SetMode(True)]
        for start in (0, 4):
            place = Placement(start, 4)
            steps += [CreateGpuInstance(9, "3g.40gb", place), CreateComputeInstance(1, "3g.40gb", place)]
        runner.run(steps, lambda _: None)
    said = h100("export")
    assert said.code == 1
    assert "counts only" in said.err
    h100.machine.bring_to(h100.machine.state().__class__(True, True))
    with h100.machine.runner() as runner:
        runner.run([CreateGpuInstance(9, "3g.40gb", Placement(0, 4))], lambda _: None)
    assert "has no compute instance" in h100("export").err


# -- boot ------------------------------------------------------------------------------------------------------------


def slurm_conf(command: Command, gres: str) -> None:
    import socket

    host = socket.gethostname().partition(".")[0]
    command.write("etc/slurm/slurm.conf", f"ClusterName=c\nNodeName={host} CPUs=2 {gres}\n")


def test_boot_applies_writes_gres_conf_and_says_so(h100: Command) -> None:
    h100.store()
    slurm_conf(h100, "Gres=gpu:nvidia_h100_80gb_hbm3_3g.40gb:2,gpu:nvidia_l40s:1")
    said = h100("boot")
    assert said.code == 0, said.err
    assert "gres.conf written: Gres=gpu:nvidia_h100" in said.out
    path = h100.root / "etc/slurm/gres.conf"
    text = path.read_text()
    assert "AutoDetect=nvml" in text
    path.chmod(0o600)
    h100.machine.driver.reboot()
    assert h100("boot").code == 0
    assert path.read_text() != text, "the UUIDs are new ones"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "is up to date" in h100("boot").out


def test_boot_refuses_devices_that_slurm_conf_does_not_mean(h100: Command) -> None:
    h100.store()
    slurm_conf(h100, "Gres=gpu:nvidia_h100_80gb_hbm3_3g.40gb:3,gpu:nvidia_l40s:1")
    said = h100("boot")
    assert said.code == 1
    assert "3g.40gb" in said.err
    assert not (h100.root / "etc/slurm/gres.conf").exists()


def test_boot_with_a_layout_that_no_longer_fits(h100: Command) -> None:
    h100.store(HALVES.replace("half: 2", '"3g.20gb": 2'))
    said = h100("boot")
    assert said.code == 1
    assert "expected profiles of" in said.err
    assert h100.machine.seen() == (False, False, ())


def test_boot_without_gpu_succeeds_and_says_so(bare: Command) -> None:
    bare.store()
    said = bare("boot")
    assert said.code == 0
    assert "no NVIDIA GPU was found on this machine: nothing to do" in said.out
    assert "gres.conf is left alone" in said.out


def test_boot_without_the_gpus_that_slurm_conf_means_is_refused(bare: Command) -> None:
    slurm_conf(bare, "Gres=gpu:nvidia_l40s:1")
    said = bare("boot")
    assert said.code == 1
    assert "nvidia_l40s" in said.err


def test_boot_without_a_stored_layout_leaves_the_gpus_alone(h100: Command) -> None:
    slurm_conf(h100, "Gres=gpu:nvidia_h100_80gb_hbm3:1,gpu:nvidia_l40s:1")
    said = h100("boot")
    assert said.code == 0, said.err
    assert "no layout is stored" in said.out
    assert h100.machine.seen() == (False, False, ())
    assert (h100.root / "etc/slurm/gres.conf").exists()


def test_boot_on_a_node_that_offers_no_gpu_leaves_gres_conf_alone(h100: Command) -> None:
    slurm_conf(h100, "RealMemory=1")
    said = h100("boot")
    assert said.code == 0
    assert "offers no Gres" in said.out
    assert not (h100.root / "etc/slurm/gres.conf").exists()


def test_boot_fails_when_gres_conf_cannot_be_written(h100: Command) -> None:
    slurm_conf(h100, "Gres=gpu:nvidia_h100_80gb_hbm3:1,gpu:nvidia_l40s:1")
    (h100.root / "etc/slurm/gres.conf").mkdir()
    said = h100("boot")
    assert said.code == 1
    assert "gres.conf" in said.err


def test_boot_puts_an_interrupted_change_straight(h100: Command) -> None:
    h100.machine.apply({"7g.80gb": 1})
    before = h100.machine.seen()
    from unit.mig.apply_machine import in_child

    h100.machine.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", kill="before")
    assert in_child(lambda: h100.machine.apply({"1g.10gb": 7})) == 9
    assert h100.machine.seen() != before
    said = h100("boot")
    assert said.code == 0, said.err
    assert "was interrupted" in said.out
    assert h100.machine.seen() == before


def test_boot_waits_for_the_driver_and_not_for_ever(h100: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    h100.store()
    reads: list[bool] = []
    real = inventory_file.read_inventory
    h100.machine.driver.fault("nvmlInit*", error="DRIVER_NOT_LOADED")

    def read(*arguments: Any) -> Any:
        reads.append(True)
        if len(reads) == 3:
            h100.machine.driver.clear_faults()
        return real(*arguments)

    monkeypatch.setattr(boot_file, "read_inventory", read)
    monkeypatch.setattr(boot_file, "_POLL_S", 0.01)
    assert h100("boot", "--wait", "20").code == 0
    assert len(reads) == 3
    h100.machine.driver.fault("nvmlInit*", error="DRIVER_NOT_LOADED")
    said = h100("boot", "--wait", "0.05")
    assert said.code == 1
    assert "no kernel driver answers it" in said.err


# -- settings and lock -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("config = x\n", "expected a file of the form"),
        ("[other]\n", "expected the one section"),
        ("[gpu-layout]\nconfi = x\n", "found 'confi'"),
        ("[gpu-layout]\nreset = always\n", "expected reset to be never or when_needed, found 'always'"),
        ("[gpu-layout]\nreset = never\nreset = never\n", "already exists"),
    ],
)
def test_settings_that_mean_nothing(text: str, told: str, h100: Command) -> None:
    h100.write("etc/hpc-compute/gpu-layout.conf", text)
    with pytest.raises(SettingsError, match=told):
        read_settings(h100.root)
    said = h100("plan")
    assert said.code == 2
    assert said.err.count("\n") == 1


def test_settings_that_cannot_be_read(h100: Command) -> None:
    (h100.root / "etc/hpc-compute/gpu-layout.conf").mkdir(parents=True)
    with pytest.raises(SettingsError, match="expected a readable settings file"):
        read_settings(h100.root)


def test_another_change_that_goes_on_is_named(h100: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.hpc.compute.plugins.module_utils.mig import apply as engine
    from ansible_collections.hpc.compute.plugins.module_utils.mig.lock import locked

    h100.store()
    monkeypatch.setattr(engine, "locked", lambda path, _: locked(path, 0))
    with locked(h100.machine.host.lock, 0):
        said = h100("apply")
    assert said.code == 1
    assert "another change of the GPU layout is going on" in said.err


# -- the program -----------------------------------------------------------------------------------------------------


def test_the_program_is_one_file_that_runs_alone(h100: Command, tmp_path: Path) -> None:
    content = bundle()
    assert content == bundle()
    assert content.startswith(SHEBANG)
    program = tmp_path / "gpu-layout"
    program.write_bytes(content)
    environment = h100.machine.driver.environment()
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, program, "--root", str(h100.root), "show", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert [gpu["board"] for gpu in json.loads(done.stdout)["gpus"]] == ["h100_80", None]


def test_a_link_to_nowhere_is_no_missing_layout(h100: Command) -> None:
    h100.write("etc/hpc-compute/x", "")
    (h100.root / "etc/hpc-compute/gpu-layout.yml").symlink_to("gone.yml")
    said = h100("boot")
    assert said.code != 0
    assert "gpu-layout.yml" in said.err


def test_the_end_of_a_unit_is_an_interruption(h100: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd sends SIGTERM; it must arrive where Ctrl-C does, so that the change is rolled back."""
    h100.store()
    before = h100.machine.seen()
    real = MigControl.create_gpu_instance
    sent: list[bool] = []

    def terminate(control: MigControl, profile_id: int, placement: object) -> int:
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(control, profile_id, placement)  # type: ignore[arg-type]

    monkeypatch.setattr(MigControl, "create_gpu_instance", terminate)
    said = h100("apply")
    assert said.code == 1
    assert "interrupted" in said.err
    assert h100.machine.seen() == before
