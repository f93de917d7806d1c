# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""DKMS modules for every installed kernel, on a made-up machine whose dkms answers as dkms 3.2 does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.dkms.ensure import (
    Completed,
    Dkms,
    DkmsError,
    DkmsMissingError,
    Wanted,
)
from ansible_collections.hpc.compute.plugins.module_utils.dkms.kernels import installed_kernels
from ansible_collections.hpc.compute.plugins.module_utils.dkms.status import first_error, parse_status
from ansible_collections.hpc.compute.plugins.modules import dkms_modules

OLD, NEW = "6.9.2+deb13-amd64", "6.12.118+deb13-amd64"
LOG = """DKMS (dkms-3.2.2) make.log for beegfs/8.3.1 for kernel 6.12.118+deb13-amd64 (x86_64)
Building module(s)
# command: make -j2 -C build module
  CC [M]  /var/lib/dkms/beegfs/8.3.1/build/source/app/App.o
/var/lib/dkms/beegfs/8.3.1/build/source/app/App.c: In function 'App_run':
/var/lib/dkms/beegfs/8.3.1/build/source/app/App.c:2:44: error: too few arguments to function 'resize'
    2 | return resize(1, 2);
make[3]: *** [scripts/Makefile.build:234: App.o] Error 1

# exit code: 2
----------------------------------------------------------------
"""


class Machine:
    """A root directory with kernels and sources, and a dkms that keeps its state in a table."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state: dict[tuple[str, str, str | None], str] = {}
        self.fails: dict[str, int] = {}
        self.log = LOG
        self.calls: list[list[str]] = []
        self.there = True
        self.warning = ""

    def kernel(self, release: str, *, headers: bool = True) -> None:
        (self.root / "lib/modules" / release / "kernel").mkdir(parents=True)
        if headers:
            (self.root / "usr/src" / f"linux-headers-{release}" / "include").mkdir(parents=True)
            (self.root / "lib/modules" / release / "build").symlink_to(f"/usr/src/linux-headers-{release}")

    def source(self, name: str, version: str) -> None:
        folder = self.root / "usr/src" / f"{name}-{version}"
        folder.mkdir(parents=True)
        (folder / "dkms.conf").touch()

    def built(self, name: str, version: str, kernel: str) -> Path:
        path = self.root / "var/lib/dkms" / name / version / kernel / "x86_64/module" / f"{name}.ko.xz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.state[name, version, kernel] = "installed"
        return path

    def run(self, command: Sequence[str]) -> Completed:
        words = list(command)
        self.calls.append(words)
        if not self.there:
            return Completed(127, "", "")
        if words == ["dkms", "status"]:
            lines = [
                f"{name}/{version}, {kernel}, x86_64: {state}" if kernel else f"{name}/{version}: {state}"
                for (name, version, kernel), state in self.state.items()
            ]
            return Completed(self.fails.get("status", 0), "\n".join(lines), "Error! No state\n")
        name, version = next(word for word in words[2:] if "/" in word).split("/")
        if words[1] == "add":
            if "add" in self.fails:
                return Completed(3, "", "Error! DKMS tree already contains it\n")
            self.state[name, version, None] = "added"
            return Completed(0, "", "")
        kernel = words[words.index("-k") + 1]
        if code := self.fails.get(f"{words[1]} {kernel}", 0):
            if self.log:
                log = self.root / "var/lib/dkms" / name / version / "build/make.log"
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text(self.log)
            return Completed(code, "", "Error! Bad return status for module build\n")
        if words[1] == "build":
            self.built(name, version, kernel)
        if words[1] == "unbuild":
            del self.state[name, version, kernel]
        if words[1] == "install":
            self.built(name, version, kernel)
        return Completed(0, "", self.warning)

    def dkms(self) -> Dkms:
        return Dkms(self.run, self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.kernel(NEW)
    made.kernel(OLD)
    made.source("beegfs", "8.3.1")
    return made


BEEGFS = [Wanted("beegfs")]


def installed(machine: Machine, kernel: str) -> Path:
    """The file that is loaded, where dkms's files tell that the module is installed."""
    built = machine.built("beegfs", "8.3.1", kernel)
    place = machine.root / "lib/modules" / kernel / "updates/dkms" / built.name
    place.parent.mkdir(parents=True)
    place.touch()
    (machine.root / f"var/lib/dkms/beegfs/kernel-{kernel}-x86_64").symlink_to(f"8.3.1/{kernel}/x86_64")
    source = machine.root / "var/lib/dkms/beegfs/8.3.1/source"
    if not source.is_symlink():
        source.symlink_to("/usr/src/beegfs-8.3.1")
    return place


def test_dkms_is_not_asked_where_its_files_tell_that_all_is_there(machine: Machine) -> None:
    files = [installed(machine, kernel) for kernel in (OLD, NEW)]
    plan = machine.dkms().plan(BEEGFS)
    assert (plan.steps, machine.calls) == ((), [])
    assert plan.state == {"beegfs/8.3.1": {OLD: "installed", NEW: "installed"}}
    changed = machine.root / "etc/build.mk"
    changed.parent.mkdir()
    changed.touch()
    os.utime(changed, (2, 2))
    os.utime(machine.built("beegfs", "8.3.1", OLD), (1, 1))
    assert [step.kernel for step in machine.dkms().plan(BEEGFS, newer_than=[changed]).steps] == [OLD]
    assert machine.calls == []
    files[0].write_text("another")
    machine.dkms().plan(BEEGFS)
    assert machine.calls == [["dkms", "status"]], "a file is not as it was built"


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / f"lib/modules/{OLD}/updates/dkms/beegfs.ko.xz").unlink(),
        lambda root: (root / f"var/lib/dkms/beegfs/kernel-{OLD}-x86_64").unlink(),
        lambda root: (root / f"var/lib/dkms/beegfs/8.3.1/{OLD}/x86_64/module/beegfs.ko.xz").unlink(),
        lambda root: (root / f"var/lib/dkms/beegfs/kernel-{OLD}-i686").symlink_to(f"8.3.1/{OLD}/i686"),
        lambda root: _link(root, f"8.3.1/{NEW}/x86_64"),
        lambda root: _link(root, f"8.2.0/{OLD}/x86_64"),
        lambda root: (root / "var/lib/dkms/beegfs/8.3.1/source").unlink(),
    ],
)
def test_dkms_is_asked_where_a_file_of_it_tells_otherwise(machine: Machine, damage: Callable[[Path], None]) -> None:
    for kernel in (OLD, NEW):
        installed(machine, kernel)
    damage(machine.root)
    machine.dkms().plan(BEEGFS)
    assert machine.calls == [["dkms", "status"]]


def _link(root: Path, target: str) -> None:
    link = root / f"var/lib/dkms/beegfs/kernel-{OLD}-x86_64"
    link.unlink()
    link.symlink_to(target)


def test_kernels_that_can_boot_are_found_in_order(machine: Machine) -> None:
    (machine.root / "lib/modules/6.1.0-removed/updates/dkms").mkdir(parents=True)
    (machine.root / "lib/modules/6.1.0-image").mkdir()
    (machine.root / "boot").mkdir()
    (machine.root / "boot/vmlinuz-6.1.0-image").touch()
    found = installed_kernels(machine.root)
    assert [(kernel.release, kernel.headers) for kernel in found] == [("6.1.0-image", False), (OLD, True), (NEW, True)]
    assert found[1].headers_package == f"linux-headers-{OLD}"
    assert installed_kernels(machine.root / "nowhere") == []


def test_headers_behind_a_relative_link_are_headers(machine: Machine) -> None:
    folder = machine.root / "lib/modules/6.13-amd64"
    (folder / "kernel").mkdir(parents=True)
    (folder / "build").symlink_to("../../../usr/src/linux-headers-6.13")
    assert not installed_kernels(machine.root)[-1].headers
    (machine.root / "usr/src/linux-headers-6.13/include").mkdir(parents=True)
    assert installed_kernels(machine.root)[-1].headers


def test_what_is_missing_is_built_and_then_nothing_is(machine: Machine) -> None:
    dkms = machine.dkms()
    plan = dkms.plan(BEEGFS)
    assert [str(step) for step in plan.steps] == [
        f"beegfs/8.3.1 for {OLD}: is not built",
        f"beegfs/8.3.1 for {NEW}: is not built",
    ]
    assert plan.state == {"beegfs/8.3.1": {OLD: "missing", NEW: "missing"}}
    dkms.carry_out(plan)
    assert machine.calls[1:] == [
        ["dkms", "add", "beegfs/8.3.1"],
        ["dkms", "install", "beegfs/8.3.1", "-k", OLD],
        ["dkms", "install", "beegfs/8.3.1", "-k", NEW],
    ]
    again = dkms.plan(BEEGFS)
    assert again.steps == ()
    assert again.state == {"beegfs/8.3.1": {OLD: "installed", NEW: "installed"}}


def test_one_kernel_may_be_chosen(machine: Machine) -> None:
    assert [step.kernel for step in machine.dkms().plan(BEEGFS, [OLD]).steps] == [OLD]
    with pytest.raises(DkmsError, match=rf"installed \({OLD.replace('+', '.')}, .*found 6\.6\.6: take them out"):
        machine.dkms().plan(BEEGFS, ["6.6.6"])


@pytest.mark.parametrize(
    ("state", "reason", "commands"),
    [
        ("built", "is built, not installed", ["install"]),
        (
            "installed (Differences between built and installed modules)",
            "dkms says Differences between built and installed modules",
            ["build", "install"],
        ),
        (
            "installed (Original modules exist) (Built modules are missing in the kernel modules folder)",
            "dkms says Built modules are missing",
            ["build", "install"],
        ),
        (
            "installed (WARNING! Missing some built modules!)",
            "dkms says Missing some built modules!",
            ["build", "install"],
        ),
        (
            "installed (WARNING! Diff between built and installed module!)",
            "dkms says Diff between",
            ["build", "install"],
        ),
    ],
)
def test_what_is_not_whole_is_done_again(machine: Machine, state: str, reason: str, commands: list[str]) -> None:
    machine.built("beegfs", "8.3.1", OLD)
    machine.state["beegfs", "8.3.1", NEW] = state
    plan = machine.dkms().plan(BEEGFS)
    assert [step.kernel for step in plan.steps] == [NEW]
    assert reason in plan.steps[0].reason
    machine.dkms().carry_out(plan)
    done = [call[1] for call in machine.calls if call[1] != "status"]
    assert done == commands
    assert all(("--force" in call) == (len(commands) == 2) for call in machine.calls if call[1] != "status")


def test_a_build_by_force_that_was_killed_is_forced_again(machine: Machine) -> None:
    """dkms removed what was built and not the link: without force it builds, and then calls it installed already."""
    for kernel in (OLD, NEW):
        installed(machine, kernel)
    shutil.rmtree(machine.root / f"var/lib/dkms/beegfs/8.3.1/{OLD}")
    machine.state = {("beegfs", "8.3.1", NEW): "installed"}
    assert [(step.kernel, step.reason, step.force) for step in machine.dkms().plan(BEEGFS).steps] == [
        (OLD, "is not built", True)
    ]
    _link(machine.root, f"8.2.0/{OLD}/x86_64")  # another version is there: nothing to force
    assert [step.force for step in machine.dkms().plan(BEEGFS).steps] == [False]


def test_a_build_by_force_leaves_what_was_cut_short_before(machine: Machine) -> None:
    """dkms removes its temporary folders with the module only: their age is no reason to build again."""
    left = machine.root / f"var/lib/dkms/beegfs/8.3.1/{OLD}/.tmp_x86_64_Xy12Ab/module/beegfs.ko.xz"
    left.parent.mkdir(parents=True)
    left.touch()
    options = machine.root / "build.mk"
    options.touch()
    os.utime(left, (1, 1))
    os.utime(options, (2, 2))
    for kernel in (OLD, NEW):
        os.utime(machine.built("beegfs", "8.3.1", kernel), (3, 3))
    assert machine.dkms().plan(BEEGFS, newer_than=[options]).steps == ()


def test_changed_options_of_a_build_build_it_again(machine: Machine) -> None:
    options = machine.root / "build.mk"
    options.touch()
    os.utime(options, (2, 2))
    for kernel, age in ((OLD, 1), (NEW, 3)):
        os.utime(machine.built("beegfs", "8.3.1", kernel), (age, age))
    plan = machine.dkms().plan(BEEGFS, newer_than=[options, machine.root / "none"])
    assert [(step.kernel, step.force) for step in plan.steps] == [(OLD, True)]
    assert "build.mk was changed" in plan.steps[0].reason


def test_every_kernel_is_tried_and_each_failure_explained(machine: Machine) -> None:
    machine.fails = {f"install {OLD}": 10, f"install {NEW}": 77}
    machine.kernel("6.13-amd64")
    dkms = machine.dkms()
    with pytest.raises(DkmsError) as caught:
        dkms.carry_out(dkms.plan(BEEGFS))
    message = str(caught.value)
    for words in (
        f"beegfs/8.3.1 to build for kernel {OLD}, found: source/app/App.c:2:44: too few arguments to function 'resize'",
        "(exit code 10, all of it in /var/lib/dkms/beegfs/8.3.1/build/make.log)",
        f"for kernel {NEW}, found: its own dkms.conf rules this kernel out",
        "install a version of beegfs that supports the kernel",
        f"apt-get purge linux-image-{OLD}), as 6.13-amd64 would remain",
        f"dkms build beegfs/8.3.1 -k {OLD}",
    ):
        assert words in message, message
    assert machine.state["beegfs", "8.3.1", "6.13-amd64"] == "installed"


def test_a_forced_build_that_fails_is_not_installed(machine: Machine) -> None:
    machine.built("beegfs", "8.3.1", OLD)
    machine.state["beegfs", "8.3.1", NEW] = "installed (WARNING! Missing some built modules!)"
    machine.fails = {f"build {NEW}": 10}
    machine.log = ""
    dkms = machine.dkms()
    with pytest.raises(DkmsError, match=r"found: Error! Bad return status for module build \(exit code 10\)"):
        dkms.carry_out(dkms.plan(BEEGFS))
    assert machine.calls[-1][1] == "build"


@pytest.mark.parametrize("again", [False, True])
def test_a_module_that_can_not_be_signed_is_none(machine: Machine, again: bool) -> None:
    """dkms only warns; what is there unsigned must not count the next time."""
    newer = machine.root / "signing.der"
    if again:
        for kernel in (OLD, NEW):
            os.utime(machine.built("beegfs", "8.3.1", kernel), (0, 0))
    newer.touch()
    machine.warning = "Warning: Failed to sign module '/x/beegfs.ko'!\nAt main.c:300: PEM_read\n"
    plan = machine.dkms().plan([Wanted("beegfs")], [NEW], [newer])
    with pytest.raises(DkmsError, match=r"beegfs\.ko was built and can't be signed \(At main\.c:300: PEM_read\)"):
        machine.dkms().carry_out(plan)
    machine.warning = ""
    assert [step.kernel for step in machine.dkms().plan([Wanted("beegfs")], [NEW], [newer]).steps] == [NEW]
    # what was there before stays
    assert (machine.state.get(("beegfs", "8.3.1", NEW)) == "installed") == again


def test_a_kernel_without_headers_is_told_before_anything_is_built(machine: Machine) -> None:
    machine.kernel("6.13-amd64", headers=False)
    with pytest.raises(DkmsError, match=r"none for 6\.13-amd64: install linux-headers-6\.13-amd64\. If the archive"):
        machine.dkms().plan(BEEGFS)
    assert machine.calls == [["dkms", "status"]]
    for kernel in (OLD, NEW, "6.13-amd64"):
        machine.built("beegfs", "8.3.1", kernel)
    assert machine.dkms().plan(BEEGFS).steps == (), "what is there needs no headers"


def test_the_version_is_the_one_whose_source_is_here(machine: Machine) -> None:
    machine.state["beegfs", "7.4.7", OLD] = "installed"  # left by a package that is gone
    machine.source("beegfs-tools", "9.9")  # another module, whose name begins alike
    assert machine.dkms().plan(BEEGFS).modules == (Wanted("beegfs", "8.3.1"),)
    assert machine.dkms().plan([Wanted("beegfs", "7.4.7")], [OLD]).steps == ()
    machine.source("beegfs", "8.4.0")
    with pytest.raises(DkmsError, match=r"one version of the module beegfs, found 8\.3\.1, 8\.4\.0: name"):
        machine.dkms().plan(BEEGFS)


def test_what_is_not_installed_is_told(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(DkmsMissingError, match=r"module zfs in /usr/src/zfs-VERSION, found none: install its package"):
        machine.dkms().plan([Wanted("zfs")])
    with pytest.raises(DkmsMissingError, match=r"/usr/src/beegfs-9, found 8\.3\.1: install its package"):
        machine.dkms().plan([Wanted("beegfs", "9")])
    with pytest.raises(DkmsMissingError, match=r"zfs-2, found no version of it"):
        machine.dkms().plan([Wanted("zfs", "2")])
    machine.there = False
    with pytest.raises(DkmsMissingError, match="install the package dkms"):
        machine.dkms().plan(BEEGFS)
    with pytest.raises(DkmsError, match=r"found none in .*lib/modules: install one first"):
        Dkms(machine.run, tmp_path / "bare").plan(BEEGFS)


def test_a_dkms_that_fails_is_quoted(machine: Machine) -> None:
    machine.fails = {"status": 5}
    with pytest.raises(DkmsError, match=r"'dkms status' to succeed, found exit code 5: Error! No state"):
        machine.dkms().plan(BEEGFS)
    machine.fails = {"add": 3}
    dkms = machine.dkms()
    with pytest.raises(DkmsError, match=r"source of beegfs/8\.3\.1, found exit code 3: Error! DKMS tree"):
        dkms.carry_out(dkms.plan(BEEGFS))


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (LOG, "source/app/App.c:2:44: too few arguments to function 'resize'"),
        ("x\n/usr/include/a.h:7:10: fatal error: b.h: No such file\n", "/usr/include/a.h:7:10: b.h: No such file"),
        (
            'a\nERROR: modpost: "pci_x" [beegfs.ko] undefined!\nmake: *** x',
            'ERROR: modpost: "pci_x" [beegfs.ko] undefined!',
        ),
        ("a\ncc1: error: unrecognised option\n", "cc1: error: unrecognised option"),
        (
            "a\nmake[1]: *** No rule to make target 'module'.  Stop.\n",
            "make[1]: *** No rule to make target 'module'.  Stop.",
        ),
        ("Building\nKilled\n\n# exit code: 137\n", "Killed"),
        ("", "the build left no log"),
    ],
)
def test_the_first_error_is_found(log: str, error: str) -> None:
    assert first_error(log) == error


def test_the_status_of_dkms_is_read() -> None:
    entries = parse_status(
        "bad/1.0: added\n"
        "nvidia-current/550.163.01, 6.12.118+deb13-amd64, x86_64: installed (Original modules exist)\n"
        "tiny/1.0, 6.12.118+deb13-amd64, x86_64: installed (WARNING! Missing some built modules!)\n"
        "gone/2.0: broken\nError! Something\n"
    )
    assert [(e.name, e.version, e.kernel, e.state, e.warning) for e in entries] == [
        ("bad", "1.0", None, "added", ""),
        ("nvidia-current", "550.163.01", "6.12.118+deb13-amd64", "installed", ""),
        ("tiny", "1.0", "6.12.118+deb13-amd64", "installed", "Missing some built modules!"),
        ("gone", "2.0", None, "broken", ""),
    ]


Module = Callable[..., dict[str, Any]]


@pytest.fixture
def module(machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Module:
    """The module as Ansible runs it, with the made-up dkms."""

    def run_command(_self: AnsibleModule, command: list[str], **_: Any) -> tuple[int, str, str]:
        done = machine.run(command)
        if done.rc == 127:
            raise FileNotFoundError(command[0])
        return done.rc, done.stdout, done.stderr

    monkeypatch.setattr(AnsibleModule, "run_command", run_command)

    def run(*, check: bool = False, **arguments: Any) -> dict[str, Any]:
        given = {"root": str(machine.root), "modules": [{"name": "beegfs"}], "_ansible_check_mode": check, **arguments}
        with patch_module_args(given), pytest.raises(SystemExit):
            dkms_modules.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return {"failed": False, **result}

    return run


def test_check_mode_tells_what_then_happens(machine: Machine, module: Module) -> None:
    told = module(check=True)
    assert told["changed"]
    assert machine.calls == [["dkms", "status"]]
    done = module()
    assert (done["steps"], done["diff"]) == (told["steps"], told["diff"])
    assert done["diff"]["after"] == f"beegfs/8.3.1, {OLD}: installed\nbeegfs/8.3.1, {NEW}: installed\n"
    again = module()
    assert not again["changed"]
    assert again["modules"] == {"beegfs/8.3.1": {OLD: "installed", NEW: "installed"}}


def test_check_mode_on_a_bare_machine_has_nothing_to_tell(machine: Machine, module: Module) -> None:
    machine.there = False
    assert module(check=True)["note"] == "dkms is not installed: install the package dkms"
    assert module()["failed"]
    assert "dkms is not installed" in module()["msg"]


def test_a_failure_is_the_modules(machine: Machine, module: Module) -> None:
    machine.fails = {f"install {NEW}": 10}
    result = module()
    assert result["failed"]
    assert result["msg"].startswith(f"expected the module beegfs/8.3.1 to build for kernel {NEW}")


def test_an_image_keeps_no_signing_key(machine: Machine, module: Module) -> None:
    module()
    folder = machine.root / "var/lib/dkms"
    for name in ("mok.key", "mok.pub"):
        (folder / name).touch()
    assert not module()["changed"], "a live machine keeps its key"
    assert module(check=True, forget_signing_key=True)["changed"]
    assert (folder / "mok.key").exists()
    assert module(forget_signing_key=True)["changed"]
    assert not list(folder.glob("mok.*"))
    assert not module(forget_signing_key=True)["changed"]
