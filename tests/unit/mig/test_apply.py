# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of an emulated machine: what is refused, what is stopped and started, what waits for a reboot."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.control import MigControl
from ansible_collections.hpc.compute.plugins.module_utils.mig import apply_prepare
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply import apply, look
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_gpu import EndState
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_prepare import Options
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_report import (
    done_steps,
    kept_and_destroyed,
    machine_text,
    planned_steps,
    predicted,
)
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_services import ServiceError, StoppedServices
from ansible_collections.hpc.compute.plugins.module_utils.mig.checkpoint import Change, Checkpoint, CheckpointError
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import parse_entries
from ansible_collections.hpc.compute.plugins.module_utils.mig.lock import LockError, locked
from unit.mig.apply_machine import in_child, layout, machine


@contextmanager
def sleeper() -> Iterator[int]:
    """A process that lives as long as this lasts."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def test_check_mode_shows_exactly_what_then_happens(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4:2g.20gb@2,a100-40,b200=7g.180gb,l40s", tmp_path) as emulated:
        entries = layout({"1g": 2, "3g": 1})
        before = emulated.driver.show()["gpus"]
        prepared = look(entries, Options(), emulated.host)
        assert emulated.driver.show()["gpus"] == before
        outcome = apply(entries, Options(), emulated.host)
        assert not outcome.failed
        assert done_steps(outcome) == planned_steps(prepared)
        assert machine_text(outcome.after) == machine_text(prepared.inventory, predicted(prepared))
        kept, destroyed = kept_and_destroyed(prepared)
        assert [(one["profile"], one["start"]) for one in kept] == [("3g.40gb", 4)]
        assert [(one["profile"], one["start"]) for one in destroyed] == [("2g.20gb", 2), ("7g.180gb", 0)]
        # What was kept is the same instance as before.
        assert emulated.ids(0)["3g.40gb@4"] == kept[0]["id"]

        again = apply(entries, Options(), emulated.host)
        assert (again.changed, again.failed, again.results) == (False, False, ())
        assert machine_text(again.after) == machine_text(outcome.after)


def test_compute_instances_of_different_sizes_are_arranged(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        # 3 and 2 and 2 slices: with the 3 where the driver puts it, at 0, only one 2 would fit beside it.
        wanted = {"3c.7g.80gb": 1, "2c.7g.80gb": 2}
        assert not emulated.apply(wanted).failed
        assert emulated.seen()[2] == ((0, 0, (3, 2, 2)),)


def test_later_gpus_are_untouched_when_one_fails(tmp_path: Path) -> None:
    with machine("3xh100-80", tmp_path) as emulated:
        emulated.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", error="UNKNOWN", gpu=1, times=1)
        outcome = emulated.apply({"7g.80gb": 1})
        assert [result.end for result in outcome.results] == [EndState.WANTED, EndState.PREVIOUS, EndState.UNTOUCHED]
        assert [emulated.seen(gpu)[0] for gpu in range(3)] == [True, False, False]
        assert outcome.failed
        assert outcome.changed
        assert "was not touched, as GPU" in outcome.failures[1]


# -- busy ------------------------------------------------------------------------------------------------------------


def test_busy_instances_are_listed_with_their_processes_and_nothing_is_changed(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4:2g.20gb@2", tmp_path) as emulated, sleeper() as pid:
        busy = emulated.ids()["2g.20gb@2"]
        emulated.driver.busy(f"0/{busy}/0", pid)
        before = emulated.seen()
        outcome = emulated.apply({"7g.80gb": 1})
        (refusal,) = outcome.failures
        assert f"(pid {pid}) on GPU instance {busy}" in refusal
        assert "2g.20gb at slot 2" in refusal
        assert not outcome.results
        assert emulated.seen() == before

        # What leaves the busy one alone is done around it.
        assert not emulated.apply({"2g.20gb": 1, "1g.10gb": 2}).failed
        assert emulated.ids()["2g.20gb@2"] == busy


def test_a_whole_gpu_in_use_is_not_switched(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated, sleeper() as pid:
        emulated.driver.busy("0", pid)
        (refusal,) = emulated.apply({"7g.80gb": 1}).failures
        assert f"(pid {pid}) on the GPU" in refusal
        assert emulated.seen() == (False, False, ())


def test_destroying_what_is_in_use_is_left_to_the_driver_and_rolled_back(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4:2g.20gb@2", tmp_path) as emulated, sleeper() as pid:
        emulated.driver.busy(f"0/{emulated.ids()['2g.20gb@2']}/0", pid)
        before = emulated.seen()
        outcome = emulated.apply({"7g.80gb": 1}, on_busy="destroy")
        (result,) = outcome.results
        assert result.end is EndState.PREVIOUS
        assert f"(pid {pid})" in result.message
        assert emulated.seen() == before
    with machine("h100-80=2g.20gb@2", tmp_path / "ended") as emulated:
        with sleeper() as pid:
            emulated.driver.busy(f"0/{emulated.ids()['2g.20gb@2']}/0", pid)
        assert not emulated.apply({"7g.80gb": 1}, on_busy="destroy").failed


# -- services and holders --------------------------------------------------------------------------------------------


def test_services_are_stopped_for_a_mode_change_only(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        emulated.systemctl.running = {"nvidia-dcgm.service", "other.service"}
        services = ("nvidia-dcgm", "not-there.service")
        assert not emulated.apply({"7g.80gb": 1}, stop_services=services).failed
        assert emulated.systemctl.asked == [["stop", "nvidia-dcgm.service"], ["start", "nvidia-dcgm.service"]]
        emulated.systemctl.asked.clear()
        assert not emulated.apply({"1g.10gb": 1}, stop_services=services).failed
        assert emulated.systemctl.asked == []


def test_services_are_started_again_after_a_failure_and_outside_the_lock(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        emulated.systemctl.running = {"b.service", "a.service"}

        def free(words: list[str]) -> None:
            if words[0] == "start":
                with locked(emulated.host.lock, 0):
                    pass

        emulated.systemctl.hook = free
        emulated.driver.fault("nvmlDeviceSetMigMode", error="UNKNOWN", times=1)
        outcome = emulated.apply({"7g.80gb": 1}, stop_services=("a", "b"))
        assert outcome.failed
        assert [words[-1] for words in emulated.systemctl.asked if words[0] == "start"] == ["b.service", "a.service"]
        assert emulated.systemctl.running == {"a.service", "b.service"}


def test_a_service_that_does_not_stop_or_start_is_told(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        emulated.systemctl.running = {"a.service"}
        emulated.systemctl.stubborn = {"a.service"}
        outcome = emulated.apply({"7g.80gb": 1}, stop_services=("a",))
        assert emulated.seen() == (False, False, ())
        assert "a.service could not be stopped (systemctl stop: exit code 1)" in outcome.failures[0]
        assert "a.service was stopped for the change and could not be started again" in outcome.failures[1]


def test_what_a_killed_run_left_stopped_is_started_by_the_next(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        emulated.systemctl.running = {"a.service"}
        note = tmp_path / "run/hpc-compute/stopped-services"

        def kill(words: list[str]) -> None:
            if words[0] == "stop":
                assert note.read_text() == "a.service\n", "stopped before it was noted"
                raise KeyboardInterrupt

        services = StoppedServices(emulated.systemctl, note)
        emulated.systemctl.hook = kill
        with pytest.raises(KeyboardInterrupt):
            services.stop(("a",))
        emulated.systemctl.hook = lambda _: None
        emulated.systemctl.running.clear()
        # another layout that asks for no change of mode, and names no service
        assert not emulated.apply({}).failed
        assert emulated.systemctl.running == {"a.service"}
        assert not note.exists()


def test_nothing_is_stopped_that_can_not_be_noted(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        emulated.systemctl.running = {"a.service"}
        (tmp_path / "run/hpc-compute").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run/hpc-compute/stopped-services").mkdir()
        services = StoppedServices(emulated.systemctl, tmp_path / "run/hpc-compute/stopped-services")
        with pytest.raises(ServiceError, match=r"a\.service was not stopped: .*stopped-services could not be written"):
            services.stop(("a",))
        assert emulated.systemctl.asked == []
        assert services.stopped == []


def test_at_boot_nobody_waits_for_services(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        emulated.systemctl.running = {"a.service"}
        emulated.host = replace(emulated.host, wait_for_services=False)
        emulated.apply({"7g.80gb": 1}, stop_services=("a",))
        assert emulated.systemctl.asked[-1] == ["start", "--no-block", "a.service"]


def test_a_process_of_a_service_that_will_be_stopped_is_not_in_the_way(tmp_path: Path) -> None:
    with machine("h100-80=2g.20gb@2", tmp_path / "root") as emulated, sleeper() as pid:
        instance = emulated.ids()["2g.20gb@2"]
        emulated.driver.busy(f"0/{instance}/0", pid)
        proc = tmp_path / "proc"
        (proc / str(pid)).mkdir(parents=True)
        (proc / str(pid) / "comm").write_text("nvidia-cuda-mps\n")
        (proc / str(pid) / "cgroup").write_text("0::/system.slice/mps.service\n")
        emulated.host = replace(emulated.host, proc=proc)
        assert "nvidia-cuda-mps" in emulated.apply({"7g.80gb": 1}).failures[0]
        emulated.systemctl.running = {"mps.service"}
        emulated.systemctl.hook = lambda words: emulated.driver.idle(f"0/{instance}/0") if words[0] == "stop" else None
        assert not emulated.apply({"7g.80gb": 1}, stop_services=("mps",)).failed
        assert [words[0] for words in emulated.systemctl.asked] == ["stop", "start"]


def test_who_holds_the_gpu_is_named_when_its_mode_is_refused(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path / "root") as emulated:
        proc = tmp_path / "proc"
        (proc / "4711/fd").mkdir(parents=True)
        (proc / "4711/fd/7").symlink_to(tmp_path / "root/dev/nvidia0")
        (proc / "4711/comm").write_text("nv-hostengine\n")
        (proc / "4711/cgroup").write_text("0::/system.slice/nvidia-dcgm.service\n")
        emulated.host = replace(emulated.host, proc=proc)
        emulated.driver.fault("nvmlDeviceSetMigMode", error="IN_USE", times=1)
        (failure,) = emulated.apply({"7g.80gb": 1}).failures
        assert "nv-hostengine (pid 4711 of nvidia-dcgm.service)" in failure
        assert "stop_services" in failure


# -- reset and reboot ------------------------------------------------------------------------------------------------


def test_only_the_gpu_that_needs_it_is_reset(tmp_path: Path) -> None:
    with machine("2xa100-40,h100-80", tmp_path) as emulated:
        assert not emulated.apply({"1g": 7}, devices=[1, 2]).failed
        assert emulated.resets == [emulated.address(1)]
        assert emulated.seen(0) == (False, False, ())


@pytest.mark.parametrize("reset", ["never", "when_needed"])
def test_without_a_reset_the_mode_waits_for_a_reboot(reset: str, tmp_path: Path) -> None:
    with machine("a100-40", tmp_path) as emulated:
        emulated.refuse_reset = "'nvidia-smi' failed with exit code 3: GPU Reset couldn't run because GPU 0 is passed"
        prepared = emulated.look({"7g.40gb": 1}, reset=reset)
        outcome = emulated.apply({"7g.40gb": 1}, reset=reset)
        (result,) = outcome.results
        assert result.end is EndState.REBOOT_REQUIRED
        assert outcome.reboot_required
        assert not outcome.failed
        assert outcome.changed
        assert "reboot the machine" in result.message
        assert ("not allowed" if reset == "never" else "passed") in result.message
        assert emulated.seen() == (False, True, ())
        assert not emulated.checkpoint.exists()
        if reset == "never":
            assert done_steps(outcome) == planned_steps(prepared)
            assert machine_text(outcome.after) == machine_text(prepared.inventory, predicted(prepared))

        # Asked again it is still pending, which is no change any more.
        again = emulated.apply({"7g.40gb": 1}, reset=reset)
        assert (again.changed, again.reboot_required, again.failed) == (False, True, False)

        emulated.driver.reboot()
        done = emulated.apply({"7g.40gb": 1}, reset=reset)
        assert (done.changed, done.reboot_required, done.failed) == (True, False, False)
        assert emulated.seen() == (True, True, ((0, 0, (7,)),))


def test_a_reset_that_is_held_up_names_the_holder(tmp_path: Path) -> None:
    with machine("a100-40", tmp_path / "root") as emulated:
        proc = tmp_path / "proc"
        (proc / "12/fd").mkdir(parents=True)
        (proc / "12/fd/3").symlink_to(tmp_path / "root/dev/nvidia0")
        (proc / "12/comm").write_text("dcgm-exporter\n")
        emulated.host = replace(emulated.host, proc=proc)
        emulated.refuse_reset = "in use by another client"
        (result,) = emulated.apply({"7g.40gb": 1}).results
        assert "dcgm-exporter (pid 12)" in result.message


def test_a_reset_that_changes_nothing_is_told(tmp_path: Path) -> None:
    with machine("a100-40", tmp_path) as emulated:
        emulated.host = replace(emulated.host, reset=lambda _: None)
        (result,) = emulated.apply({"7g.40gb": 1}).results
        assert result.end is EndState.REBOOT_REQUIRED
        assert "its MIG mode is still the old one" in result.message


def test_a_rollback_that_needs_a_reset_it_does_not_get_says_what_is_there(tmp_path: Path) -> None:
    with machine("a100-40", tmp_path) as emulated:
        emulated.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", error="UNKNOWN", times=1)
        real = emulated.host.reset

        def once(address: str) -> None:
            real(address)
            emulated.refuse_reset = "no more"

        emulated.host = replace(emulated.host, reset=once)
        (result,) = emulated.apply({"7g.40gb": 1}).results
        assert result.end is EndState.BETWEEN
        assert "MIG on (going off with the next reset or reboot)" in result.message


# -- machines that are not whole -------------------------------------------------------------------------------------


def test_no_gpu_is_nothing_to_do(tmp_path: Path) -> None:
    with machine("none", tmp_path) as emulated:
        outcome = emulated.apply({"7g.80gb": 1})
        assert (outcome.changed, outcome.failed) == (False, False)
        assert outcome.prepared.notes == ("no NVIDIA GPU was found on this machine: nothing to do",)


@pytest.mark.parametrize("partial", ["fail", "skip"])
def test_a_lost_gpu_beside_a_good_one(partial: str, tmp_path: Path) -> None:
    with machine("2xh100-80", tmp_path) as emulated:
        emulated.driver.lose(1)
        outcome = emulated.apply({"7g.80gb": 1}, partial=partial)
        assert outcome.failed == (partial == "fail")
        assert emulated.seen(0)[0] == (partial == "skip")
        told = outcome.failures if partial == "fail" else outcome.prepared.notes
        assert "is lost" in told[0]
        # A layout that does not speak of the lost one is not concerned.
        assert not emulated.apply({"7g.80gb": 1}, devices=[0]).failed


@pytest.mark.parametrize("partial", ["fail", "skip"])
def test_a_gpu_that_is_not_there(partial: str, tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        outcome = emulated.apply({"7g.80gb": 1}, devices=[0, 1], partial=partial)
        assert outcome.failed == (partial == "fail")
        assert emulated.seen()[0] == (partial == "skip")


def test_no_driver_is_told_in_the_inventorys_words(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path, kernel_driver="nouveau") as emulated:
        (failure,) = emulated.apply({"7g.80gb": 1}).failures
        assert "nouveau" in failure


def test_an_old_driver_is_told_what_it_takes(tmp_path: Path) -> None:
    with machine("b200", tmp_path) as emulated:
        prepared = emulated.look({"1g": 7})
        old = replace(prepared.inventory, driver_version="550.163.01")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(apply_prepare, "read_inventory", lambda *_: old)
            (failure,) = emulated.apply({"1g": 7}).failures
        assert "expected driver 570.133.20 or newer for MIG on" in failure
        assert "found 550.163.01" in failure


# -- lock and checkpoint ---------------------------------------------------------------------------------------------


def test_a_second_change_waits_and_then_names_the_first(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated, locked(emulated.host.lock, 0):
        with pytest.raises(LockError, match=f"process {os.getpid()} holds"):
            emulated.apply({"7g.80gb": 1}, lock_wait_s=0.1)
        # Looking needs no lock.
        assert emulated.look({"7g.80gb": 1}).jobs


def test_a_lock_that_a_dead_process_held_is_free(tmp_path: Path) -> None:
    path = tmp_path / "run/lock"
    path.parent.mkdir()
    path.write_text("4711\n")
    with locked(path, 0):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where a directory belongs")
    with pytest.raises(LockError, match="expected to make the lock file"), locked(tmp_path / "run/lock", 0):
        pass


def test_nothing_is_changed_when_the_checkpoint_cannot_be_written(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        emulated.checkpoint.parent.mkdir(parents=True)
        emulated.checkpoint.with_name(f".{emulated.checkpoint.name}.new").mkdir()
        outcome = emulated.apply({"7g.80gb": 1})
        assert [result.end for result in outcome.results] == [EndState.UNTOUCHED]
        assert "no change of a GPU is begun without it" in outcome.failures[0]
        assert not outcome.changed
        assert emulated.seen() == (False, False, ())


def test_a_disk_that_fills_up_between_two_gpus_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Checkpoint.begin
    begun: list[str] = []

    def second_fails(checkpoint: Checkpoint, change: Change) -> None:
        begun.append(change.pci_address)
        if len(begun) == 2:
            raise CheckpointError("No space left on device")
        real(checkpoint, change)

    monkeypatch.setattr(Checkpoint, "begin", second_fails)
    with machine("3xh100-80", tmp_path) as emulated:
        outcome = emulated.apply({"7g.80gb": 1})
        assert [result.end for result in outcome.results] == [EndState.WANTED, EndState.UNTOUCHED, EndState.UNTOUCHED]
        assert outcome.changed
        assert "No space left on device" in outcome.failures[0]
        assert emulated.seen(0)[0]
        assert not emulated.seen(1)[0]


def test_a_record_that_cannot_be_closed_is_told_with_the_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(checkpoint: Checkpoint, pci_address: str) -> None:
        raise CheckpointError("Read-only file system")

    with machine("h100-80", tmp_path) as emulated:
        with monkeypatch.context() as patched:
            patched.setattr(Checkpoint, "end", fails)
            (result,) = emulated.apply({"7g.80gb": 1}).results
        assert result.end is EndState.UNKNOWN
        assert result.changed
        assert "the record of it could not be closed" in result.message
        assert not emulated.apply({"7g.80gb": 1}).failed
        assert not emulated.checkpoint.exists()


def test_only_its_owner_may_open_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run/lock"
    path.parent.mkdir()
    path.touch(mode=0o644)
    with locked(path, 0):
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"schema": 2, "gpus": []}',
        '{"schema": 1, "gpus": [{}]}',
        '{"schema": 1, "gpus": [{"pci_address": "a", "previous": 5}]}',
        "[" * 100000,
        "\udcff",
    ],
)
def test_a_checkpoint_that_means_nothing_stops_everything(text: str, tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        emulated.checkpoint.parent.mkdir(parents=True)
        emulated.checkpoint.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(CheckpointError, match="then remove it"):
            emulated.apply({"7g.80gb": 1})
        assert emulated.seen() == (False, False, ())


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4,a100-40", tmp_path) as emulated:
        checkpoint = emulated.host.checkpoint
        jobs = emulated.look({"1g": 2, "3g": 1}).jobs
        changes = [
            Change(job.pci_address, emulated.state(number), job.wanted, job.steps) for number, job in enumerate(jobs)
        ]
        for change in changes:
            checkpoint.begin(change)
        assert checkpoint.load() == tuple(changes)
        checkpoint.advance(changes[1].pci_address, 2)
        assert checkpoint.load() == (changes[0], replace(changes[1], cursor=2))
        for change in changes:
            checkpoint.end(change.pci_address)
        assert checkpoint.load() == ()
        assert not checkpoint.path.exists()


def test_the_interrupted_change_of_a_gpu_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        (job,) = emulated.look({"1g": 7}).jobs
        emulated.host.checkpoint.begin(Change("0000:ff:00.0", emulated.state(), job.wanted, job.steps))
        outcome = emulated.apply({"1g": 7})
        assert not outcome.failed
        assert "no longer there" in outcome.prepared.notes[0]
        assert not emulated.checkpoint.exists()
    with machine("none", tmp_path) as bare:
        bare.host.checkpoint.begin(Change("0000:ff:00.0", job.wanted, job.wanted, job.steps))
        assert not bare.apply({"1g": 7}).failed
        assert not bare.checkpoint.exists()


def test_an_interrupted_change_is_put_straight_even_when_the_new_layout_is_refused(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        before, start = emulated.seen(), emulated.state()
        (job,) = emulated.look({"7g.80gb": 1}).jobs
        emulated.host.checkpoint.begin(Change(job.pci_address, start, job.wanted, job.steps))
        emulated.bring_to(replace(start, instances=()))
        outcome = emulated.apply({"7g.80gb": 2})
        assert outcome.failed
        assert emulated.seen() == before
        assert "it goes back to" in outcome.prepared.notes[0]
        assert not emulated.checkpoint.exists()


@pytest.mark.parametrize("end", ["previous", "wanted"])
def test_an_interrupted_change_at_one_of_its_ends_is_only_forgotten(end: str, tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        start = emulated.state()
        (job,) = emulated.look({"7g.80gb": 1}).jobs
        emulated.host.checkpoint.begin(Change(job.pci_address, start, job.wanted, job.steps))
        if end == "wanted":
            emulated.bring_to(job.wanted)
        outcome = apply(parse_entries([{"devices": ["*none*"], "mig-enabled": False}]), Options(), emulated.host)
        assert (outcome.changed, outcome.failed) == (False, False)
        assert f"it is in the {end} state" in outcome.prepared.notes[0]
        assert not emulated.checkpoint.exists()


def test_an_interrupted_change_that_had_got_as_far_as_the_layout(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        (job,) = emulated.look({"7g.80gb": 1}).jobs
        emulated.host.checkpoint.begin(Change(job.pci_address, emulated.state(), job.wanted, job.steps))
        emulated.bring_to(job.wanted)
        outcome = emulated.apply({"7g.80gb": 1})
        assert (outcome.changed, outcome.failed) == (False, False)
        assert not emulated.checkpoint.exists()


def test_an_interruption_from_the_keyboard_rolls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        before = emulated.seen()
        real = MigControl.create_gpu_instance
        raised: list[bool] = []

        def interrupt(control: MigControl, profile_id: int, placement: object) -> int:
            if not raised:
                raised.append(True)
                raise KeyboardInterrupt
            return real(control, profile_id, placement)  # type: ignore[arg-type]

        monkeypatch.setattr(MigControl, "create_gpu_instance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            emulated.apply({"7g.80gb": 1})
        assert emulated.seen() == before
        assert not emulated.checkpoint.exists()


def test_a_gpu_that_was_changed_meanwhile_is_not_touched(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        real = apply_prepare.prepare

        def then_somebody_else(*arguments: object) -> object:
            prepared = real(*arguments)  # type: ignore[arg-type]
            emulated.bring_to(replace(emulated.state(), instances=()))
            return prepared

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ansible_collections.hpc.compute.plugins.module_utils.mig.apply.prepare", then_somebody_else)
            (result,) = emulated.apply({"7g.80gb": 1}).results
        assert result.end is EndState.PREVIOUS
        assert "something else changed it meanwhile" in result.message
        assert emulated.seen() == (True, True, ())


def test_the_driver_is_followed_where_it_differs_from_the_catalogue(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        prepared = emulated.look({"1g": 1})
        assert prepared.differences == {emulated.address(): ()}


def test_steps_that_had_another_effect_are_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        before = emulated.seen()
        real = MigControl.create_compute_instance
        calls: list[int] = []

        def forget_first(control: MigControl, gi_id: int, slices: int, start: int | None = None) -> None:
            calls.append(gi_id)
            if len(calls) > 1:
                real(control, gi_id, slices, start)

        monkeypatch.setattr(MigControl, "create_compute_instance", forget_first)
        (result,) = emulated.apply({"7g.80gb": 1}).results
        assert result.end is EndState.PREVIOUS
        assert "after all steps expected" in result.message
        assert "7g.80gb at slots 0-7 without compute instance" in result.message
        assert emulated.seen() == before


def test_no_session_of_ours_is_open_while_a_gpu_is_reset(tmp_path: Path) -> None:
    import pynvml

    # other tests of this process may have left some, by a shutdown that was made to fail
    others = pynvml._nvmlLib_refcount
    with machine("a100-40", tmp_path) as emulated:
        real = emulated.host.reset
        sessions: list[int] = []

        def reset(address: str) -> None:
            sessions.append(pynvml._nvmlLib_refcount)
            real(address)

        emulated.host = replace(emulated.host, reset=reset)
        assert not emulated.apply({"7g.40gb": 1}).failed
        assert sessions == [others]


def test_a_rollback_leaves_alone_what_is_right(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4:2g.20gb@2", tmp_path) as emulated, sleeper() as pid:
        kept = emulated.ids()["3g.40gb@4"]
        emulated.driver.busy(f"0/{kept}/0", pid)
        emulated.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", error="UNKNOWN", times=1)
        (result,) = emulated.apply({"3g.40gb": 1, "1g.10gb": 2}).results
        assert result.end is EndState.PREVIOUS
        assert emulated.ids()["3g.40gb@4"] == kept


def test_a_rollback_makes_again_the_compute_instances_that_are_missing(tmp_path: Path) -> None:
    for number, split in enumerate(({"1c.3g.40gb": 3}, {"2c.3g.40gb": 1, "1c.3g.40gb": 1})):
        with machine("h100-80", tmp_path / str(number)) as emulated:
            emulated.apply(split)
            before, instance = emulated.seen(), emulated.ids()
            emulated.driver.fault("nvmlComputeInstanceDestroy", error="UNKNOWN", times=1, skip=1)
            (result,) = emulated.apply({"3g.40gb": 1}).results
            assert result.end is EndState.PREVIOUS
            assert emulated.seen() == before
            assert emulated.ids() == instance


def test_a_rollback_undoes_compute_instances_that_were_made_already(tmp_path: Path) -> None:
    with machine("h100-80", tmp_path) as emulated:
        emulated.apply({"1c.3g.40gb": 3})
        before = emulated.seen()
        emulated.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", error="UNKNOWN", times=1)
        (result,) = emulated.apply({"3g.40gb": 2}).results
        assert [step.action for step in result.steps][-1] == "create_compute_instance"
        assert result.end is EndState.PREVIOUS
        assert emulated.seen() == before


def test_a_change_that_goes_on_and_fails_goes_back_to_where_it_first_began(tmp_path: Path) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        before = emulated.seen()
        emulated.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", kill="before")
        assert in_child(lambda: emulated.apply({"7g.80gb": 1})) == 9
        assert emulated.seen() == (True, True, ())
        emulated.driver.fault("nvmlDeviceCreateGpuInstanceWithPlacement", error="UNKNOWN", times=1)
        outcome = emulated.apply({"7g.80gb": 1})
        assert [result.end for result in outcome.results] == [EndState.PREVIOUS]
        assert "this goes on from there" in outcome.prepared.notes[0]
        assert emulated.seen() == before


def test_a_checkpoint_that_cannot_be_finished_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine("h100-80", tmp_path) as emulated:
        checkpoint = emulated.host.checkpoint
        (job,) = emulated.look({"1g": 7}).jobs
        change = Change(job.pci_address, emulated.state(), job.wanted, job.steps)
        checkpoint.begin(change)

        def full(data: object, file: TextIO, **_: object) -> None:
            file.write('{"schema": 1, "g')
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(json, "dump", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            checkpoint.advance(change.pci_address, 1)
        assert checkpoint.load() == (change,)
        # The disk is full in the middle of a change: the GPU goes back, and the file, which needs no room to go, goes.
        outcome = emulated.apply({"1g": 7}, devices=["*no such model*"])
        assert not outcome.failed
        assert not checkpoint.path.exists()


def test_a_disk_that_fills_up_on_the_way_rolls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine("h100-80=3g.40gb@4", tmp_path) as emulated:
        before = emulated.seen()
        real = Checkpoint.advance

        def third_fails(checkpoint: Checkpoint, pci_address: str, cursor: int) -> None:
            if cursor == 2:
                raise CheckpointError("no room")
            real(checkpoint, pci_address, cursor)

        monkeypatch.setattr(Checkpoint, "advance", third_fails)
        (result,) = emulated.apply({"7g.80gb": 1}).results
        assert (result.end, "no room" in result.message) == (EndState.PREVIOUS, True)
        assert emulated.seen() == before
        assert not emulated.checkpoint.exists()
