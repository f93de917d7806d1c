# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts on a made-up machine: all is looked at before anything is touched, and what worked works after a failure."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.beegfs import apply
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.apply import Client, ClientError, Plan
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.files import MARK, files
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.machine import (
    TIMED_OUT,
    Completed,
    Machine,
    Seen,
    run,
)
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.mounts import Mount, escape
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.release import Release
from ansible_collections.hpc.compute.plugins.modules import beegfs_mounts

EIGHT, SEVEN = Release(8, 3), Release(7, 4)
ONE = Mount("/mnt/beegfs", "mgmt", secret=b"secret")
TWO = Mount("/b", "mgmt", first=False, client_port=8014, secret=b"own", own_secret=True, options=("ro",))


class Fake:
    """A root directory whose systemd mounts into the mountinfo that is in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []
        self.mounted: dict[str, str] = {}
        self.active: set[str] = set()
        #: command -> exit code, also of mounts: "systemctl start mnt-beegfs.mount"
        self.fails: dict[str, int] = {}
        self.refuses: Callable[[str], bool] = lambda _unit: False
        self.journal = ""
        self.since: float | None = None
        #: a unit's file is newer than what systemd has read
        self.unread = False
        self.answers: dict[str, Completed] = {}
        (root / "proc/self").mkdir(parents=True)
        self._write()

    def machine(self) -> Machine:
        return Machine(self.root, self.run)

    def client(self, **how: Any) -> Client:
        return Client(self.machine(), **how)

    def put(self, path: str, text: str = "") -> Path:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def mount(self, path: str, fstype: str = "beegfs") -> None:
        self.mounted[path] = fstype
        self._write()

    def run(self, command: Sequence[str], _timeout: float) -> Completed:
        words = " ".join(command)
        if command[0] == sys.executable:
            kind = "write" if "urandom" in command[2] else "space"
            return self.answers.get(kind, Completed(0, "1000 500" if kind == "space" else "", ""))
        if not words.startswith(("journalctl", "systemctl is-active", "systemctl show")):
            self.calls.append(words)
        if code := self.fails.get(words):
            return Completed(code, "", "it went wrong\n")
        if command[0] == "journalctl":
            return Completed(0, self.journal if "--dmesg" in command else "Mounting it\n", "")
        if command[0] == "modinfo":
            return Completed(0, "NEW\n", "")
        return self._systemctl(command) if command[0] == "systemctl" else Completed(0, "", "")

    def _systemctl(self, command: Sequence[str]) -> Completed:
        verb, units = command[1], [word for word in command[2:] if not word.startswith("-")]
        if verb == "show":
            since = self.since if self.since is not None else time.clock_gettime(time.CLOCK_MONOTONIC)
            stamp = int(since * 1e6)
            stale = f"NeedDaemonReload={'yes' if self.unread else 'no'}"
            told = [f"Id={unit}\nActiveEnterTimestampMonotonic={stamp}\n{stale}" for unit in units]
            return Completed(0, "\n\n".join([*told, "Id=odd\nActiveEnterTimestampMonotonic="]), "")
        if verb == "daemon-reload":
            self.unread = False
        if verb == "is-active":
            return Completed(0 if units[0] in self.active else 3, "", "")
        for unit in units:
            if verb == "enable":
                link = self.root / "etc/systemd/system/remote-fs.target.wants" / unit
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to("x")
            if verb in ("start", "restart"):
                if self.refuses(unit):
                    return Completed(1, "", "Job failed\n")
                self.active.add(unit)
                if unit.endswith(".mount"):
                    self.mount(self._path(unit))
            if verb in ("stop", "disable"):
                self.active.discard(unit)
                self.mounted.pop(self._path(unit), None)
                self._write()
        return Completed(0, "", "")

    def _path(self, unit: str) -> str:
        return next((path for path in ("/mnt/beegfs", "/b", "/old") if f"{escape(path)}.mount" == unit), "")

    def _write(self) -> None:
        lines = [f"1 0 0:1 / {path} rw - {kind} beegfs_nodev rw\n" for path, kind in self.mounted.items()]
        (self.root / "proc/self/mountinfo").write_text("1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n" + "".join(lines))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    # whoever runs the tests owns the files
    monkeypatch.setattr(apply, "_OWNER", (os.getuid(), os.getgid()))
    return Fake(tmp_path)


def bring(fake: Fake, *mounts: Mount, release: Release = EIGHT, slurmd: str = "wait", **how: Any) -> Plan:
    client = fake.client(**how)
    plan = client.plan(mounts, files(mounts, release, slurmd))
    client.carry_out(plan)
    return plan


def test_a_bare_machine_gets_everything_and_then_nothing(fake: Fake) -> None:
    plan = bring(fake, ONE, TWO)
    assert fake.calls == [
        "systemctl daemon-reload",
        "systemctl enable mnt-beegfs.mount b.mount",
        "systemctl start mnt-beegfs.mount",
        "systemctl start b.mount",
    ]
    assert "mount /mnt/beegfs" in plan.actions
    assert "write /etc/beegfs/conn.auth" in plan.actions
    auth = fake.root / "etc/beegfs/conn.auth"
    assert (auth.read_bytes(), auth.stat().st_mode & 0o777) == (b"secret", 0o400)
    assert not list(auth.parent.glob(".*")), "a temporary file was left"
    fake.calls.clear()
    again = bring(fake, ONE, TWO)
    assert (again.changed, again.actions, fake.calls) == (False, [], [])


def test_a_wrong_mode_is_put_right(fake: Fake) -> None:
    bring(fake, ONE)
    (fake.root / "etc/beegfs/conn.auth").chmod(0o644)
    assert bring(fake, ONE).actions[0] == "write /etc/beegfs/conn.auth"
    assert (fake.root / "etc/beegfs/conn.auth").stat().st_mode & 0o777 == 0o400


def test_changed_settings_mount_again_and_only_what_they_are_for(fake: Fake) -> None:
    bring(fake, ONE, TWO)
    fake.calls.clear()
    changed = Mount("/mnt/beegfs", "mgmt", secret=b"secret", settings={"logLevel": "5"})
    plan = bring(fake, changed, TWO)
    assert fake.calls == ["systemctl stop mnt-beegfs.mount", "systemctl start mnt-beegfs.mount"]
    assert plan.actions[-1] == "mount /mnt/beegfs again, with other settings"


def test_what_a_run_that_was_cut_off_wrote_is_mounted_by_the_next(fake: Fake) -> None:
    bring(fake, ONE)
    fake.since = 0.0  # mounted long before the files were written
    assert bring(fake, ONE).remount == (ONE,)
    fake.since = None
    assert not bring(fake, ONE).changed


def test_a_new_secret_is_for_every_mount_that_has_it(fake: Fake) -> None:
    three = Mount("/old", "mgmt", first=False, client_port=8024, secret=b"secret")
    bring(fake, ONE, TWO, three)
    changed = (replace(ONE, secret=b"new secret"), TWO, replace(three, secret=b"new secret"))
    later = bring(fake, *changed, remount_later=True)
    assert later.pending == ("/mnt/beegfs", "/old")
    fake.since = 0.0
    fake.put("/etc/beegfs/beegfs-client.conf", (fake.root / "etc/beegfs/beegfs-client.conf").read_text())
    assert [mount.path for mount in bring(fake, *changed).remount] == ["/mnt/beegfs", "/b", "/old"]
    fake.since = None
    bring(fake, ONE, TWO, three)
    fake.calls.clear()
    assert [mount.path for mount in bring(fake, *changed).remount] == ["/mnt/beegfs", "/old"]
    assert fake.calls == [
        f"systemctl {verb} {unit}.mount" for verb in ("stop", "start") for unit in ("mnt-beegfs", "old")
    ]


def test_options_that_were_left_for_later_are_mounted_by_a_run_that_may(fake: Fake) -> None:
    bring(fake, ONE)
    mounted = time.clock_gettime(time.CLOCK_MONOTONIC)
    for path in fake.root.glob("etc/beegfs/*"):
        os.utime(path, (1, 1))
    changed = replace(ONE, options=("noatime",))
    bring(fake, changed, remount_later=True)
    fake.since = mounted - 1
    assert bring(fake, changed, remount_later=True).pending == ("/mnt/beegfs",)
    assert bring(fake, changed).remount == (changed,)


def test_a_unit_that_systemd_has_not_read_is_read(fake: Fake) -> None:
    bring(fake, ONE)
    fake.unread, fake.since = True, 0.0
    fake.calls.clear()
    assert bring(fake, ONE).actions[0] == "have systemd read its units"
    assert fake.calls == [
        "systemctl stop mnt-beegfs.mount",
        "systemctl daemon-reload",
        "systemctl start mnt-beegfs.mount",
    ]
    fake.since = None
    assert not bring(fake, ONE).changed


def hold(fake: Fake, pid: str, path: str, link: str = "cwd") -> None:
    process = fake.root / "proc" / pid
    (process / "fd").mkdir(parents=True, exist_ok=True)
    (process / "comm").write_text("python\n")
    (process / link).symlink_to(path)


def test_a_file_system_in_use_is_left_alone(fake: Fake) -> None:
    bring(fake, ONE)
    for number in range(10, 17):
        hold(fake, str(number), "/mnt/beegfs/job", "fd/3" if number == 10 else "cwd")
    hold(fake, "20", "/mnt/beegfs-other")
    (fake.root / "proc/21").mkdir()
    changed = Mount("/mnt/beegfs", "other", secret=b"secret")
    fake.calls.clear()
    before = (fake.root / "etc/beegfs/beegfs-client.conf").read_text()
    with pytest.raises(ClientError, match=r"/mnt/beegfs by 10 python, 11 python, .* and 2 more\. Nothing was changed"):
        bring(fake, changed)
    assert (fake.calls, (fake.root / "etc/beegfs/beegfs-client.conf").read_text()) == ([], before)
    plan = bring(fake, changed, remount_later=True)
    assert (plan.pending, plan.remount) == (("/mnt/beegfs",), ())
    assert fake.mounted == {"/mnt/beegfs": "beegfs"}
    assert "other" in (fake.root / "etc/beegfs/beegfs-client.conf").read_text()


def test_a_mount_that_is_gone_from_the_list_is_unmounted_and_forgotten(fake: Fake) -> None:
    bring(fake, ONE, TWO)
    fake.put("/etc/systemd/system/site.mount", "[Mount]\nWhere=/site\n")
    fake.put("/etc/beegfs/site.conf", "# the site's\n")
    fake.calls.clear()
    plan = bring(fake, ONE)
    assert "unmount b.mount, which is not wanted any more" in plan.actions
    assert fake.calls[:2] == ["systemctl disable --now b.mount", "systemctl daemon-reload"]
    left = {path.name for path in (fake.root / "etc/beegfs").iterdir()}
    assert left == {"beegfs-client.conf", "conn.auth", "site.conf"}
    assert (fake.root / "etc/systemd/system/site.mount").exists()
    assert not bring(fake, ONE).changed


def test_without_mounts_nothing_of_them_is_left(fake: Fake) -> None:
    bring(fake, ONE, TWO, release=SEVEN)
    fake.calls.clear()
    plan = bring(fake, release=SEVEN)
    assert fake.calls == [
        "systemctl disable --now b.mount",
        "systemctl disable --now mnt-beegfs.mount",
        "systemctl daemon-reload",
        "systemctl disable --now beegfs-helperd.service",
    ]
    # what tells whose the secrets are goes after them
    assert [action for action in plan.actions if action.startswith("remove")][:2] == [
        "remove /etc/beegfs/beegfs-client-b.auth",
        "remove /etc/beegfs/conn.auth",
    ]
    left = [path for path in (fake.root / "etc").rglob("*") if path.is_file()]
    assert (left, fake.mounted) == ([], {})
    fake.put("/etc/beegfs/conn.auth", "the site's own")
    assert not bring(fake, release=SEVEN).changed


def test_a_secret_that_is_not_used_any_more_goes_and_comes_back_as_it_was(fake: Fake) -> None:
    bring(fake, ONE)
    auth, conf = fake.root / "etc/beegfs/conn.auth", fake.root / "etc/beegfs/beegfs-client.conf"
    fake.refuses = lambda _unit: "connDisableAuthentication = true" in conf.read_text()
    with pytest.raises(ClientError, match="The settings before are back"):
        bring(fake, replace(ONE, secret=None))
    assert (auth.read_bytes(), auth.stat().st_mode & 0o777) == (b"secret", 0o400)
    fake.refuses = lambda _unit: False
    assert "remove /etc/beegfs/conn.auth" in bring(fake, replace(ONE, secret=None)).actions
    assert not auth.exists()


def test_a_mount_that_cannot_be_removed_is_told(fake: Fake) -> None:
    bring(fake, ONE, TWO)
    fake.fails["systemctl disable --now b.mount"] = 1
    with pytest.raises(ClientError, match=r"expected to unmount /b, found exit code 1 of 'systemctl disable --now b"):
        bring(fake, ONE)
    fake.fails.clear()
    hold(fake, "9", "/b")
    with pytest.raises(ClientError, match="found /b by 9 python"):
        bring(fake, ONE)


def test_seven_has_a_helper_that_reads_what_changes(fake: Fake) -> None:
    bring(fake, ONE, release=SEVEN)
    assert fake.calls[1:3] == ["systemctl enable beegfs-helperd.service", "systemctl restart beegfs-helperd.service"]
    fake.calls.clear()
    assert not bring(fake, ONE, release=SEVEN).changed
    fake.active.discard("beegfs-helperd.service")
    assert bring(fake, ONE, release=SEVEN).actions == ["start beegfs-helperd.service"]
    fake.calls.clear()
    plan = bring(fake, ONE, release=EIGHT)
    assert "remove /etc/beegfs/beegfs-helperd.conf" in plan.actions
    assert not [call for call in fake.calls if "helperd" in call]


def test_a_first_mount_that_fails_says_why(fake: Fake) -> None:
    fake.refuses = lambda unit: unit == "mnt-beegfs.mount"
    fake.journal = "beegfs: Auth file is empty or too small\n"
    with pytest.raises(ClientError) as caught:
        bring(fake, ONE)
    message = str(caught.value)
    for words in (
        "BeeGFS of mgmt to be mounted at /mnt/beegfs, found exit code 1 of systemctl start mnt-beegfs.mount",
        "Auth file is empty or too small (the secret of the connection authentication",
        "tried again at the next boot",
    ):
        assert words in message, message
    assert "Mounting it" not in message, "systemd's own lines tell nothing"
    fake.refuses = lambda _unit: False
    assert bring(fake, ONE).actions == ["mount /mnt/beegfs"]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("mount: unknown filesystem type 'beegfs'.", "the running kernel has no module"),
        ("Can not resolve management host address using hostname 'x'", "can't be resolved"),
        ("management daemon at x is unreachable", "does not answer"),
        ("something else", ""),
        ("", "the journal has no reason"),
    ],
)
def test_reasons_come_with_what_they_usually_mean(fake: Fake, said: str, hint: str) -> None:
    fake.refuses = lambda unit: unit.endswith(".mount")
    fake.journal = said
    with pytest.raises(ClientError) as caught:
        bring(fake, ONE)
    assert said in str(caught.value)
    assert hint in str(caught.value)


def test_settings_with_which_it_cannot_be_mounted_are_put_back(fake: Fake) -> None:
    bring(fake, ONE, release=SEVEN, slurmd="require")
    fake.active.add("slurmd.service")
    conf = fake.root / "etc/beegfs/beegfs-client.conf"
    before = conf.read_text()
    fake.refuses = lambda unit: unit == "mnt-beegfs.mount" and "bad" in conf.read_text()
    bad = Mount("/mnt/beegfs", "bad", secret=b"other", settings={"logLevel": "5"}, net_filter=("10.0.0.0/8",))
    with pytest.raises(ClientError, match="The settings before are back, and what was mounted is mounted again"):
        bring(fake, bad, release=SEVEN, slurmd="require")
    assert conf.read_text() == before
    assert (fake.root / "etc/beegfs/conn.auth").read_bytes() == b"secret"
    assert not (fake.root / "etc/beegfs/beegfs-client.net-filter").exists()
    assert fake.mounted == {"/mnt/beegfs": "beegfs"}
    assert fake.calls[-3:] == [
        "systemctl restart beegfs-helperd.service",
        "systemctl stop mnt-beegfs.mount",
        "systemctl start mnt-beegfs.mount",
    ]
    fake.refuses = lambda unit: unit == "mnt-beegfs.mount"
    with pytest.raises(ClientError, match="but /mnt/beegfs could not be mounted with them either"):
        bring(fake, bad, release=SEVEN, slurmd="require")


def test_a_mount_that_cannot_be_stopped_stays(fake: Fake) -> None:
    bring(fake, ONE, TWO)
    changed = [
        Mount(one.path, "new", first=one.first, client_port=one.client_port, secret=one.secret) for one in (ONE, TWO)
    ]
    fake.fails["systemctl stop b.mount"] = 1
    with pytest.raises(ClientError, match=r"to unmount /b, .* \(in use by nobody that /proc knows of\)\. Nothing was"):
        bring(fake, *changed)
    assert set(fake.mounted) == {"/mnt/beegfs", "/b"}
    assert "new" not in (fake.root / "etc/beegfs/beegfs-client.conf").read_text()


def test_slurmd_that_was_stopped_with_the_mounts_is_started_again(fake: Fake) -> None:
    bring(fake, ONE, slurmd="require")
    fake.active.add("slurmd.service")
    original = fake.run

    def stops_slurmd(command: Sequence[str], timeout: float) -> Completed:
        if command[:2] == ["systemctl", "stop"]:
            fake.active.discard("slurmd.service")
        return original(command, timeout)

    client = Client(Machine(fake.root, stops_slurmd))
    changed = (Mount("/mnt/beegfs", "new", secret=b"secret"),)
    client.carry_out(client.plan(changed, files(changed, EIGHT, "require")))
    assert fake.calls[-1] == "systemctl start slurmd.service"


def test_a_replaced_module_is_loaded_anew(fake: Fake) -> None:
    bring(fake, ONE)
    loaded = fake.put("/sys/module/beegfs/srcversion", "OLD\n")
    fake.calls.clear()
    assert bring(fake, ONE).reload_module
    assert "modprobe --remove beegfs" in fake.calls
    fake.fails["modprobe --remove beegfs"] = 1
    with pytest.raises(ClientError, match="unload the module of the release before, found exit code 1"):
        bring(fake, ONE)
    assert fake.mounted == {"/mnt/beegfs": "beegfs"}
    loaded.write_text("NEW\n")
    assert not bring(fake, ONE).changed


def test_a_replaced_module_stays_loaded_where_the_mounts_stay(fake: Fake) -> None:
    bring(fake, ONE)
    fake.put("/sys/module/beegfs/srcversion", "OLD\n")
    fake.calls.clear()
    plan = bring(fake, ONE, remount_later=True)
    assert (plan.pending, plan.changed) == (("/mnt/beegfs",), False)
    assert "modprobe --remove beegfs" not in fake.calls


def test_something_else_at_its_place_is_told(fake: Fake) -> None:
    fake.mount("/mnt/beegfs", "nfs4")
    with pytest.raises(ClientError, match=r"expected nothing or beegfs at /mnt/beegfs, found nfs4 \(beegfs_nodev\)"):
        bring(fake, ONE)
    fake.mounted.clear()
    fake.put("/etc/fstab", "# x /mnt/beegfs\n\nserver:/e /mnt/beegfs/ nfs4 defaults 0 0\n")
    with pytest.raises(ClientError, match=r"no line for /mnt/beegfs in /etc/fstab, .* found: server:/e"):
        bring(fake, ONE)
    assert fake.calls == []


def test_mounts_are_proven_to_work(fake: Fake) -> None:
    bring(fake, ONE, TWO)
    client = fake.client()
    first, second = client.verify([ONE, TWO], 5, write=True)
    assert first == {"path": "/mnt/beegfs", "fstype": "beegfs", "total_bytes": 1000, "free_bytes": 500, "written": True}
    assert second["written"] is False, "a read-only mount was written to"
    fake.answers["write"] = Completed(1, "", "No space left on device: /mnt/beegfs/x\n")
    with pytest.raises(ClientError, match=r"at /mnt/beegfs to take and return a file, found: No space left on device"):
        client.verify([ONE], 5, write=True)
    assert client.verify([ONE], 5, write=False)[0]["written"] is False
    fake.answers["space"] = Completed(TIMED_OUT, "", "")
    with pytest.raises(ClientError, match=r"to tell its size within 5 s, found no answer: its servers do not respond"):
        client.verify([ONE], 5, write=True)
    fake.mounted.clear()
    (fake.root / "proc/self/mountinfo").write_text("")
    with pytest.raises(ClientError, match="expected BeeGFS to be mounted at /mnt/beegfs, found nothing"):
        client.verify([ONE], 5, write=True)


def test_a_command_that_hangs_is_left_behind() -> None:
    start = time.monotonic()
    done = run(["sh", "-c", "echo said; sleep 60"], 0.3)
    assert (done.rc, done.stdout, time.monotonic() - start < 10) == (TIMED_OUT, "said\n", True)
    assert run(["/nonexistent"], 1) == Completed(127, "", "No such file or directory: /nonexistent")
    assert run(["sh", "-c", "echo a; echo b >&2; exit 3"], 5) == Completed(3, "a\n", "b\n")
    assert (Completed(1, "x\ny\n", "").last_line, Completed(1, "", "").last_line) == ("y", "it said nothing")


def test_the_write_test_is_real(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    machine = Machine(tmp_path)
    assert machine.write_test("/mnt/test", 20).rc == 0
    assert not list((tmp_path / "mnt").iterdir())
    assert machine.write_test("/gone/test", 20).last_line == f"No such file or directory: {tmp_path}/gone/test"
    full = Machine(tmp_path, lambda command, timeout: run(["prlimit", "--fsize=4096", *command], timeout))
    assert full.write_test("/mnt/test", 20).last_line == f"File too large: {tmp_path}/mnt/test"
    assert not list((tmp_path / "mnt").iterdir()), "a file that could not be written was left"
    (tmp_path / "mnt/test").symlink_to("/dev/null")
    assert machine.write_test("/mnt/test", 20).rc == 1, "it followed a link"
    total, free = machine.space("/mnt", 20).stdout.split()
    assert int(total) >= int(free) > 0
    assert machine.space("/gone", 20).rc == 1


def test_what_is_mounted_is_read_from_the_kernel(fake: Fake) -> None:
    fake.put(
        "/proc/self/mountinfo", "1 0 0:1 / /a\\040b rw - ext4 /dev/x rw\n2 0 0:2 / /a\\040b rw - beegfs n\\011d rw\n"
    )
    assert fake.machine().mounted("/a b") == Seen("beegfs", "n\td")
    assert fake.machine().mounted("/c") is None


def test_a_file_that_cannot_be_written_leaves_the_old_one(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.put("/etc/x", "old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        fake.machine().write(PurePosixPath("/etc/x"), b"new", 0o644)
    assert [path.name for path in (fake.root / "etc").iterdir()] == ["x"]
    assert (fake.root / "etc/x").read_text() == "old"


def module(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **more: Any
) -> dict[str, Any]:
    monkeypatch.setattr(beegfs_mounts, "Machine", lambda root: Machine(root, fake.run))
    given = {
        "root": str(fake.root),
        "version": "8.3",
        "conn_auth": "c2VjcmV0",
        "mounts": [{"path": "/mnt/beegfs", "mgmtd_host": "mgmt"}],
        "_ansible_check_mode": more.pop("check", False),
        **more,
    }
    with patch_module_args(given), pytest.raises(SystemExit):
        beegfs_mounts.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert "c2VjcmV0" not in json.dumps(result)
    return {"failed": False, **result}


def test_the_module_tells_first_what_it_then_does(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def go(**more: Any) -> dict[str, Any]:
        return module(fake, monkeypatch, capsys, **more)

    told = go(check=True)
    assert (told["changed"], told["mounts"], fake.calls) == (True, [], [])
    done = go()
    assert (done["actions"], done["diff"]) == (told["actions"], told["diff"])
    secrets = [part for part in done["diff"] if part["after_header"].endswith("conn.auth")]
    assert secrets == [{**secrets[0], "before": "", "after": "(a secret)\n"}]
    assert done["mounts"][0]["written"]
    assert not go()["changed"]
    other = go(conn_auth="b3RoZXIgc2VjcmV0", check=True)
    assert [part["after"] for part in other["diff"]] == ["(a secret)\n(another secret)\n"]
    stale = go(slurmd="ignore", check=True)["diff"]
    assert [(part["before"].splitlines()[0], part["after"]) for part in stale] == [(MARK, "")]


def test_the_module_refuses_before_it_looks(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def go(**more: Any) -> str:
        result = module(fake, monkeypatch, capsys, **more)
        assert result["failed"]
        return str(result["msg"])

    assert "expected a series" in go(version="9")
    assert "no key nope" in go(settings={"nope": 1})
    fake.mount("/mnt/beegfs", "nfs")
    assert "found nfs" in go()
    assert fake.calls == []
