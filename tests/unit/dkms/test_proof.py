# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package is built before it is installed: what is built where, what counts again, and what a failure leaves."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpc.compute.plugins.module_utils.dkms.ensure import Completed, DkmsError
from ansible_collections.hpc.compute.plugins.module_utils.dkms.proof import Prover
from ansible_collections.hpc.compute.plugins.modules import dkms_proof

PACKAGE, VERSION = "nvidia-kernel-dkms", "550.163.01-2"
FIRST, SECOND = "6.12.107+deb13-amd64", "6.12.118+deb13-amd64"
CONF = 'PACKAGE_NAME="nvidia-current"\nPACKAGE_VERSION="550.163.01"\n'
POLICY = """\
nvidia-kernel-dkms:
  Installed: (none)
  Candidate: {candidate}
  Version table:
     595.71.05-1 -1
        500 http://x  Packages
 *** 580.126.09-1 1000
        500 http://x  Packages
        100 /var/lib/dpkg/status
     580.65.06-1 1000
        500 http://x  Packages
"""
LOG = """\
make -C /lib/modules
{build}/nv-pci.c:237:9: error: too few arguments to function 'pci_resize_resource'
make[2]: *** [nv-pci.o] Error 1
"""


class Machine:
    """apt, dpkg and dkms as far as they are asked; *fails* is dkms's exit code by kernel."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.calls: list[list[str]] = []
        self.fails: dict[str, int] = {}
        self.policy = POLICY.format(candidate="580.126.09-1")
        self.conf = CONF
        self.files = 1
        self.log = True
        self.download = 0
        self.add = 0
        self.warning = ""
        self.busy = 0
        for release in (FIRST, SECOND):
            (root / "lib/modules" / release / "kernel").mkdir(parents=True)
            (root / "lib/modules" / release / "build/include").mkdir(parents=True)
        self.prover = Prover(self.run, self.work, root / "logs", root / "state", root)

    def run(self, command: Sequence[str], folder: Path | None) -> Completed:
        words = list(command)
        self.calls.append(words)
        if words[0] == "apt-cache":
            return Completed(0, self.policy, "")
        if words[0] == "flock":
            assert "--shared" not in words
            assert Path(words[-2]).parent.is_dir()
            return Completed(self.busy, "", "")
        if words[0] == "apt-get":
            assert folder is not None
            for number in range(self.files):
                (folder / f"package{number}.deb").touch()
            return Completed(self.download, "", "E: Can't find a source")
        if words[0] == "dpkg-deb":
            assert folder is not None
            if self.conf:
                source = folder / "tree/usr/src/nvidia-current-550.163.01"
                source.mkdir(parents=True)
                (source / "dkms.conf").write_text(self.conf)
            return Completed(0, "", "")
        if words[:2] == ["dkms", "generate_mok"]:
            return Completed(1, "openssl not found, can't generate key and certificate.", "")
        if words[:2] == ["dkms", "add"]:
            if self.add == 0:
                (self.root / "state/nvidia-current/550.163.01/source").mkdir(parents=True)
            return Completed(self.add, "", "Error! no")
        assert words[0] == "env"
        return self.build(words)

    def build(self, words: list[str]) -> Completed:
        kernel = words[-1]
        assert words[words.index("--dkmstree") + 1] == str(self.work / "dkms" / kernel)
        base = self.work / "dkms" / kernel / "nvidia-current/550.163.01"
        if code := self.fails.get(kernel):
            if self.log:
                build = base / "build"
                build.mkdir(parents=True, exist_ok=True)
                (build / "make.log").write_text(LOG.format(build=build))
            return Completed(code, "", "Error! Bad return status\n")
        module = base / kernel / "x86_64/module"
        module.mkdir(parents=True)
        (module / "nvidia-current.ko.xz").write_text(kernel)
        return Completed(0, "", self.warning)

    def built(self) -> list[str]:
        return [words[-1] for words in self.calls if words[0] == "env"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_built_for_every_kernel_in_a_place_of_its_own(machine: Machine) -> None:
    proof = machine.prover.prove(PACKAGE, VERSION, [])
    assert (proof.module, proof.module_version, proof.kernels) == ("nvidia-current", "550.163.01", (FIRST, SECOND))
    assert sorted(machine.built()) == [FIRST, SECOND]
    command = next(words for words in machine.calls if words[0] == "env")
    assert f"TMPDIR={machine.work / 'tmp'}" in command
    assert not (machine.root / "state").exists()


def test_builds_at_the_same_time_find_a_key(machine: Machine) -> None:
    """Two that find none would each make one, and one of the kernels be signed by a key that is gone."""
    machine.prover.prove(PACKAGE, VERSION, [FIRST])
    assert ["dkms", "generate_mok"] not in machine.calls, "a single build makes it itself"
    machine.calls.clear()
    machine.prover.prove(PACKAGE, "550.163.01-3", [])
    key = machine.calls.index(["dkms", "generate_mok"])
    assert all(key < place for place, words in enumerate(machine.calls) if words[0] == "env")
    assert len(machine.built()) == 2


def test_kernels_are_built_for_at_the_same_time(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    both, built = threading.Barrier(2, timeout=10), machine.build

    def build(words: list[str]) -> Completed:
        both.wait()
        return built(words)

    monkeypatch.setattr(machine, "build", build)
    assert machine.prover.prove(PACKAGE, VERSION, []).kernels == (FIRST, SECOND)


def test_what_was_built_counts_when_it_is_asked_again(machine: Machine) -> None:
    machine.fails = {SECOND: 10}
    with pytest.raises(DkmsError):
        machine.prover.prove(PACKAGE, VERSION, [])
    machine.fails = {}
    machine.prover.prove(PACKAGE, VERSION, [])
    assert sorted(machine.built()) == [FIRST, SECOND, SECOND]
    machine.prover.prove(PACKAGE, "550.163.01-3", [SECOND])
    assert machine.built()[3:] == [SECOND], "another version of the package starts anew"


def test_a_failure_says_what_and_why(machine: Machine) -> None:
    machine.fails = {SECOND: 10}
    with pytest.raises(DkmsError) as caught:
        machine.prover.prove(PACKAGE, VERSION, [])
    said = str(caught.value)
    assert "nvidia-kernel-dkms 550.163.01-2 (module nvidia-current/550.163.01)" in said
    log = machine.root / "logs" / f"dkms-nvidia-current-550.163.01-{SECOND}.log"
    problem = "nv-pci.c:237:9: too few arguments to function 'pci_resize_resource'"
    assert said.endswith(f"found kernel {SECOND}: {problem} (exit code 10, all of it in {log})")
    assert "pci_resize_resource" in log.read_text()
    assert machine.prover.proof() is None


#: dkms only warns, and ends with 0; the reason is what the kernel's sign-file says.
UNSIGNED = """\
Warning: Failed to sign module '/x/nvidia-current.ko'!
At main.c:300: sign-file: /etc/dkms/hpc-compute/signing.key
"""


def test_a_module_that_can_not_be_signed_is_none(machine: Machine) -> None:
    machine.warning = UNSIGNED
    for _ in range(2):  # what was built unsigned does not count the next time
        with pytest.raises(DkmsError) as caught:
            machine.prover.prove(PACKAGE, VERSION, [FIRST])
        assert "nvidia-current.ko was built and can't be signed (At main.c:300: sign-file: /etc/" in str(caught.value)
    machine.warning = ""
    machine.prover.prove(PACKAGE, VERSION, [FIRST])
    assert machine.built() == [FIRST] * 3


def test_a_build_that_outlived_its_run_is_waited_for(machine: Machine) -> None:
    machine.prover.prove(PACKAGE, VERSION, [FIRST])
    lock = str(machine.work) + ".lock"
    waited = next(place for place, words in enumerate(machine.calls) if words[0] == "flock")
    downloaded = next(place for place, words in enumerate(machine.calls) if words[0] == "apt-get")
    assert waited < downloaded, "it writes where things are removed now"
    assert machine.calls[waited][-2:] == [lock, "true"]
    command = next(words for words in machine.calls if words[0] == "env")
    assert command[command.index("dkms") - 2 : command.index("dkms")] == ["--shared", lock]
    assert "flock" in command
    machine.busy = 1
    with pytest.raises(DkmsError, match=r"earlier build to end within 3600 s, found that something still holds"):
        machine.prover.prove(PACKAGE, VERSION, [FIRST])


def test_what_dkms_left_of_a_build_that_ended_early_does_not_count(machine: Machine) -> None:
    """The disk was full, or the machine went down, while modules were put into dkms's temporary folder."""
    base = machine.work / "dkms" / FIRST / "nvidia-current/550.163.01"
    left = base / FIRST / ".tmp_x86_64_Xy12Ab/module/nvidia-current.ko.xz"
    machine.fails, machine.log = {FIRST: 7}, False
    with pytest.raises(DkmsError):  # makes the place
        machine.prover.prove(PACKAGE, VERSION, [FIRST])
    left.parent.mkdir(parents=True)
    left.touch()
    with pytest.raises(DkmsError, match=r"\(exit code 7\)"):
        machine.prover.prove(PACKAGE, VERSION, [FIRST])
    machine.fails = {}
    machine.prover.prove(PACKAGE, VERSION, [FIRST])
    assert machine.built() == [FIRST] * 3
    machine.prover.adopt(VERSION)
    assert [path.name for path in (machine.root / "state/nvidia-current/550.163.01" / FIRST).iterdir()] == ["x86_64"]


def test_dkms_is_given_a_whole_module_or_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.prover.prove(PACKAGE, VERSION, [FIRST])
    place = machine.root / "state/nvidia-current/550.163.01" / FIRST

    def killed(source: Path, target: Path, symlinks: bool) -> None:
        (target / "module").mkdir(parents=True)
        (target / "module/nvidia-current.ko.xz").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", killed)
        with pytest.raises(KeyboardInterrupt):
            machine.prover.adopt(VERSION)
    assert not (place / "x86_64").exists()
    machine.prover.adopt(VERSION)
    assert [path.name for path in place.iterdir()] == ["x86_64"]
    assert (place / "x86_64/module/nvidia-current.ko.xz").read_text() == FIRST


def test_what_another_run_built_meanwhile_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    built = machine.build

    def already(words: list[str]) -> Completed:
        built(words)
        return Completed(3, "", "Error! This module/version has already been built\n")

    monkeypatch.setattr(machine, "build", already)
    assert machine.prover.prove(PACKAGE, VERSION, [FIRST]).kernels == (FIRST,)


def test_a_failure_without_a_log(machine: Machine) -> None:
    machine.fails, machine.log = {FIRST: 21}, False
    with pytest.raises(DkmsError, match=r"Error! Bad return status \(exit code 21\)"):
        machine.prover.prove(PACKAGE, VERSION, [FIRST])


def test_a_kernel_that_the_package_rules_out(machine: Machine) -> None:
    machine.fails = {FIRST: 77}
    with pytest.raises(DkmsError, match="rules this kernel out"):
        machine.prover.prove(PACKAGE, VERSION, [])


def test_missing_headers_and_kernels(machine: Machine) -> None:
    (machine.root / "lib/modules" / FIRST / "build/include").rmdir()
    with pytest.raises(DkmsError, match=r"install linux-headers-6\.12\.107\+deb13-amd64; where the archive"):
        machine.prover.prove(PACKAGE, VERSION, [])
    machine.prover.prove(PACKAGE, VERSION, [SECOND])
    with pytest.raises(DkmsError, match="expected an installed kernel"):
        machine.prover.prove(PACKAGE, VERSION, ["6.1.0"])


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("conf", "", "found 0: it is no DKMS package"),
        ("conf", 'PACKAGE_NAME="other"\nPACKAGE_VERSION="1"\n', "found other and 1"),
        ("conf", "PACKAGE_NAME=$name\n", "found none and none"),
        ("files", 0, "expected one package in"),
        ("files", 2, "package0.deb, package1.deb"),
        ("download", 100, "to be downloaded, found exit code 100: E: Can't find a source"),
    ],
)
def test_packages_that_are_not_as_they_should_be(machine: Machine, attribute: str, value: Any, said: str) -> None:
    setattr(machine, attribute, value)
    with pytest.raises(DkmsError) as caught:
        machine.prover.prove(PACKAGE, VERSION, [])
    assert said in str(caught.value)


def test_adopted_once_the_package_is_there(machine: Machine) -> None:
    machine.prover.prove(PACKAGE, VERSION, [])
    assert machine.prover.adopt(VERSION) is not None
    for kernel in (FIRST, SECOND):
        place = machine.root / "state/nvidia-current/550.163.01" / kernel
        assert (place / "x86_64/module/nvidia-current.ko.xz").read_text() == kernel
    assert not machine.work.exists()
    assert machine.prover.adopt(VERSION) is None


def test_another_version_is_not_adopted(machine: Machine) -> None:
    machine.prover.prove(PACKAGE, VERSION, [])
    assert machine.prover.adopt("560.1-1") is None
    assert not machine.work.exists()
    assert not (machine.root / "state").exists()


def test_what_dkms_has_already_is_not_written_over(machine: Machine) -> None:
    machine.prover.prove(PACKAGE, VERSION, [])
    place = machine.root / "state/nvidia-current/550.163.01"
    (place / "source").mkdir(parents=True)
    (place / FIRST / "x86_64").mkdir(parents=True)
    machine.prover.adopt(VERSION)
    assert list((place / FIRST / "x86_64").iterdir()) == []
    assert not any(words[:2] == ["dkms", "add"] for words in machine.calls)


def test_dkms_may_refuse(machine: Machine) -> None:
    machine.prover.prove(PACKAGE, VERSION, [])
    machine.add = 3
    with pytest.raises(DkmsError, match="found exit code 3: Error! no"):
        machine.prover.adopt(VERSION)


@pytest.mark.parametrize("record", ["", "[]", '{"package": "x"}', '{"kernels": []}'])
def test_a_broken_record_is_none(machine: Machine, record: str) -> None:
    machine.work.mkdir()
    (machine.work / "proof.json").write_text(record)
    assert machine.prover.proof() is None


@pytest.mark.parametrize(
    ("candidate", "glob", "version"),
    [
        ("580.126.09-1", "", "580.126.09-1"),
        ("580.126.09-1", "580.*", "580.126.09-1"),
        ("580.126.09-1", "580.65.06-*", "580.65.06-1"),
        # a pin of the version that was there before counts for nothing when another is asked for
        ("580.126.09-1", "595.*", "595.71.05-1"),
        ("(none)", "595.*", "595.71.05-1"),
    ],
)
def test_which_version(machine: Machine, candidate: str, glob: str, version: str) -> None:
    machine.policy = POLICY.format(candidate=candidate)
    assert machine.prover.candidate(PACKAGE, glob) == version


def test_versions_that_are_not_there(machine: Machine) -> None:
    with pytest.raises(DkmsError, match=r"found 595\.71\.05-1, 580\.126\.09-1, 580\.65\.06-1"):
        machine.prover.candidate(PACKAGE, "620.*")
    machine.policy = POLICY.format(candidate="(none)")
    with pytest.raises(DkmsError, match="forbidden by a pin"):
        machine.prover.candidate(PACKAGE, "")
    machine.policy = ""
    assert machine.prover.candidate(PACKAGE, "620.*") is None


class Exited(Exception):  # noqa: N818  # it is how a module ends, not an error
    pass


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> dict[str, Any]:
    """What the module ended with, on that machine."""
    result: dict[str, Any] = {}

    def end(self: AnsibleModule, **values: Any) -> None:
        result.update(values)
        raise Exited

    def run(self: AnsibleModule, command: list[str], cwd: str | None, **more: object) -> tuple[int, str, str]:
        if command[0] == "dpkg-query":
            return (0, VERSION, "") if machine.add == 0 else (1, "", "no packages found")
        done = machine.run(command, (cwd and Path(cwd)) or None)
        return done.rc, done.stdout, done.stderr

    monkeypatch.setattr(AnsibleModule, "exit_json", end)
    monkeypatch.setattr(AnsibleModule, "fail_json", end)
    monkeypatch.setattr(AnsibleModule, "run_command", run)
    monkeypatch.setattr(
        dkms_proof, "Prover", lambda run: Prover(run, machine.work, machine.root, machine.root, machine.root)
    )
    machine.policy = POLICY.format(candidate="580.126.09-1").replace("580.126.09-1", VERSION)
    return result


def call(ended: dict[str, Any], **given: Any) -> dict[str, Any]:
    ended.clear()
    with pytest.raises(Exited), patch_module_args({"package": PACKAGE, **given}):
        dkms_proof.main()
    return dict(ended)


def test_module_proves_and_adopts(ended: dict[str, Any], machine: Machine) -> None:
    told = call(ended, _ansible_check_mode=True)
    assert (told["changed"], told["version"], told["upstream_version"]) == (True, VERSION, "550.163.01")
    assert machine.built() == []
    told = call(ended)
    assert (told["changed"], told["module"]) == (True, "nvidia-current/550.163.01")
    told = call(ended, state="adopted", _ansible_check_mode=True)
    assert (told["changed"], told["module"]) == (False, None)
    told = call(ended, state="adopted")
    assert (told["changed"], told["kernels"]) == (False, (FIRST, SECOND))


def test_module_fails_with_advice(ended: dict[str, Any], machine: Machine) -> None:
    machine.fails = {FIRST: 10}
    assert call(ended, advice="Take another.")["msg"].endswith(". Take another.")
    assert "expected a version 999.* of" in call(ended, version="999.*")["msg"]
    # apt knows the name from another source than the one that is yet to come
    assert call(ended, version="999.*", _ansible_check_mode=True)["version"] is None
    machine.policy = ""
    assert "found no source that has it" in call(ended)["msg"]
    assert call(ended, _ansible_check_mode=True)["version"] is None
    machine.add = 1
    assert "to be installed, found that dpkg has none" in call(ended, state="adopted")["msg"]


def test_module_without_dkms(ended: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: AnsibleModule, command: list[str], **more: object) -> None:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(AnsibleModule, "run_command", missing)
    assert "found no source" in call(ended)["msg"]
