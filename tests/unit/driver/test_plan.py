# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which driver a machine gets: boards, branches, kernels and packages that are there, each against the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.dkms.kernels import Kernel
from ansible_collections.hpc.compute.plugins.module_utils.driver import families
from ansible_collections.hpc.compute.plugins.module_utils.driver.families import family_of
from ansible_collections.hpc.compute.plugins.module_utils.driver.machine import Machine
from ansible_collections.hpc.compute.plugins.module_utils.driver.plan import (
    Plan,
    Wishes,
    make_plan,
    matches,
    version_glob,
)
from ansible_collections.hpc.compute.plugins.module_utils.driver.stack import (
    Package,
    branch_of,
    parse_packages,
    upstream,
)
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Problem
from ansible_collections.hpc.compute.plugins.module_utils.gpu.pci import PciFunction

V100, T4, A100, H100, GH200, L40, B200, FUTURE = "1db6", "1eb8", "20b5", "2330", "2342", "26b5", "2901", "3f01"
CLOUD = Kernel("6.12.118+deb13-cloud-amd64", True)
GENERIC = Kernel("6.12.118+deb13-amd64", False)
DEBIAN_MAINTAINER = "Debian NVIDIA Maintainers <pkg-nvidia-devel@lists.alioth.debian.org>"
DEBIAN = Wishes()
NVIDIA = Wishes(source="nvidia")


def board(device_id: str, slot: int = 0) -> PciFunction:
    return PciFunction(f"0000:{slot:02x}:00.0", "10de", device_id, "030200")


def machine(*device_ids: str, kernels: tuple[Kernel, ...] = (CLOUD,), packages: tuple[Package, ...] = ()) -> Machine:
    return Machine(
        functions=tuple(board(device_id, slot) for slot, device_id in enumerate(device_ids)),
        kernels=kernels,
        packages=packages,
    )


def package(name: str, version: str, by: str = DEBIAN_MAINTAINER, status: str = "installed") -> Package:
    return Package(name, version, status, by)


def problem(plan: Plan) -> str:
    assert len(plan.problems) == 1, plan.problems
    return plan.problems[0]


@pytest.mark.parametrize(
    ("device_id", "family"),
    [
        # as the PCI ID repository has them, first and last of each chip
        ("1340", families.MAXWELL),
        ("13f2", families.MAXWELL),
        ("1436", families.MAXWELL),
        ("15f7", families.PASCAL),
        ("15f9", families.PASCAL),
        ("1617", families.MAXWELL),
        ("17fd", families.MAXWELL),
        ("1b00", families.PASCAL),
        ("1d52", families.PASCAL),
        ("1d81", families.VOLTA),
        ("1df6", families.VOLTA),
        ("1e02", families.TURING),
        ("1eb8", families.TURING),
        ("1fb9", families.TURING),
        ("20b0", families.AMPERE),
        ("20fd", families.AMPERE),
        ("2182", families.TURING),
        ("2203", families.AMPERE),
        ("2330", families.HOPPER),
        ("2342", families.GRACE_HOPPER),
        ("25b6", families.AMPERE),
        ("26b5", families.ADA),
        ("28f8", families.ADA),
        ("2901", families.BLACKWELL),
        ("2bb5", families.BLACKWELL),
        ("2941", families.BLACKWELL),
        ("29bc", families.BLACKWELL),
        ("2f58", families.BLACKWELL),
        ("3182", families.BLACKWELL),
        ("31c0", families.BLACKWELL),
        ("3f01", families.UNKNOWN),
        ("0fc6", families.KEPLER),
    ],
)
def test_families(device_id: str, family: families.Family) -> None:
    assert family_of(device_id) == family


@pytest.mark.parametrize(
    ("wishes", "boards", "flavour"),
    [
        (DEBIAN, (), "proprietary"),
        (DEBIAN, (A100, H100, L40), "proprietary"),
        (NVIDIA, (), "open"),
        (NVIDIA, (T4, A100, H100, L40), "open"),
        (NVIDIA, (V100,), "proprietary"),
        (NVIDIA, (V100, A100), "proprietary"),
        (NVIDIA, (GH200,), "open"),
        (NVIDIA, (B200,), "open"),
        (NVIDIA, (FUTURE,), "open"),
        (replace(NVIDIA, branch="550"), (H100,), "proprietary"),
        (replace(NVIDIA, branch="620"), (), "open"),
        (replace(NVIDIA, branch="620"), (A100,), "open"),
        (replace(NVIDIA, flavour="proprietary"), (A100,), "proprietary"),
        (replace(DEBIAN, flavour="open"), (A100,), "open"),
        # what a builder has is not what the node will have
        (replace(NVIDIA, image=True), (V100,), "open"),
        (Wishes(source="local"), (A100,), "open"),
        (Wishes(source="local", names="debian"), (A100,), "proprietary"),
    ],
)
def test_the_kind_of_module(wishes: Wishes, boards: tuple[str, ...], flavour: str) -> None:
    plan = make_plan(wishes, machine(*boards))
    assert (plan.flavour, plan.problems) == (flavour, ())
    assert plan.reason


@pytest.mark.parametrize(
    ("wishes", "boards", "said"),
    [
        (DEBIAN, (B200,), "needs branch 570 or later; 550 would be installed"),
        (DEBIAN, (B200,), "nvidia_gpu_drivers_source to nvidia"),
        (replace(NVIDIA, branch="565"), (B200,), "Set nvidia_gpu_drivers_branch accordingly"),
        (replace(NVIDIA, branch="595"), (V100,), "driven by branches up to 580 only; 595 would be installed"),
        (replace(NVIDIA, flavour="open"), (V100,), "NVIDIA makes only proprietary ones for that family"),
        (replace(NVIDIA, flavour="open"), (V100,), "Set nvidia_gpu_drivers_flavour to auto; it is open"),
        (replace(NVIDIA, flavour="proprietary"), (B200,), "NVIDIA makes only open ones for that family"),
        (NVIDIA, (V100, B200), "No driver serves both kinds of board in one machine"),
        (NVIDIA, (V100, B200), "The other boards are 1 board of the family Volta (1db6)"),
        (replace(NVIDIA, branch="620", flavour="proprietary"), (), "the last with them is 615"),
        (replace(NVIDIA, branch="R580"), (), "nvidia_gpu_drivers_branch must be a number such as 580; it is 'R580'"),
        (replace(NVIDIA, version="latest"), (), "must be a driver's version such as 580.126.09"),
        (replace(NVIDIA, version="595.71.05", branch="580"), (), "595.71.05 is not of nvidia_gpu_drivers_branch 580"),
        (replace(DEBIAN, branch="580"), (), "Debian 13 has branch 550 only, and 580 is asked for"),
        (replace(DEBIAN, version="535.274.02"), (), "Debian 13 has branch 550 only, and 535 is asked for"),
        (replace(DEBIAN, fabric_manager=True), (), "Debian has no fabric manager"),
    ],
)
def test_what_can_not_be(wishes: Wishes, boards: tuple[str, ...], said: str) -> None:
    assert any(said in problem for problem in make_plan(wishes, machine(*boards)).problems)


def test_all_problems_are_told_at_once() -> None:
    plan = make_plan(replace(DEBIAN, fabric_manager=True, branch="x"), machine(B200, kernels=()))
    assert len(plan.problems) >= 3


def test_debian_packages() -> None:
    plan = make_plan(DEBIAN, machine(A100))
    assert plan.dkms_package == plan.packages[0] == "nvidia-kernel-dkms"
    assert plan.module == "nvidia-current"
    # NVIDIA's repository may be known to apt, too, and has packages of the same names
    assert plan.version_glob == "550.*"
    assert not any("xserver" in name or name == "nvidia-driver" for name in plan.packages)
    opened = make_plan(replace(DEBIAN, flavour="open", version="550.163.01"), machine(A100))
    assert (opened.dkms_package, opened.module) == ("nvidia-open-kernel-dkms", "nvidia-current-open")
    assert opened.version_glob == "550.163.01-*"


def test_nvidia_packages() -> None:
    plan = make_plan(replace(NVIDIA, fabric_manager=True), machine(H100))
    assert plan.packages == (
        "nvidia-kernel-open-dkms",
        "nvidia-driver-cuda",
        "nvidia-modprobe",
        "nvidia-persistenced",
        "nvidia-fabricmanager",
        "libnvidia-nscq",
    )
    # nvidia-driver-cuda conflicts with it
    assert "nvidia-smi" not in plan.packages
    assert (plan.module, plan.branch, plan.version_glob) == ("nvidia", "580", "580.*")


def test_headers_and_holds_are_for_every_installed_kernel() -> None:
    installed = (
        package("linux-image-amd64", "6.12.118-1"),
        package("linux-image-6.12.118+deb13-amd64", "6.12.118-1"),
        package("linux-headers-6.12.118+deb13-common", "6.12.118-1"),
    )
    there = machine(kernels=(GENERIC, CLOUD), packages=installed)
    plan = make_plan(NVIDIA, there)
    assert plan.kernels == (GENERIC.release, CLOUD.release)
    headers = (f"linux-headers-{GENERIC.release}", f"linux-headers-{CLOUD.release}")
    assert plan.headers == headers
    assert {*headers, "linux-image-amd64", "linux-image-6.12.118+deb13-amd64", *plan.packages} == set(plan.hold)
    loose = make_plan(replace(NVIDIA, hold_kernel=False), there)
    # a kernel that comes later must find its headers
    assert loose.headers == (*headers, "linux-headers-amd64")
    assert set(loose.hold) == set(loose.packages)


def test_kernels_can_be_left_out() -> None:
    plan = make_plan(replace(DEBIAN, ignored_kernels=("*-cloud-amd64",)), machine(kernels=(GENERIC, CLOUD)))
    assert (plan.kernels, plan.ignored_kernels) == ((GENERIC.release,), (CLOUD.release,))
    nothing = make_plan(replace(DEBIAN, ignored_kernels=("*",)), machine())
    assert "leaves none of the installed kernels (6.12.118+deb13-cloud-amd64)" in problem(nothing)


def test_kernels_that_can_not_be_served() -> None:
    assert "No kernel is installed" in problem(make_plan(DEBIAN, machine(kernels=())))
    realtime = Kernel("6.12.118+deb13-rt-amd64", True)
    assert "real-time kernels, and 6.12.118+deb13-rt-amd64" in problem(make_plan(DEBIAN, machine(kernels=(realtime,))))


def test_the_two_stacks_do_not_mix() -> None:
    debians = (package("nvidia-smi", "550.163.01-2"), package("libnvidia-ml1", "550.163.01-2"))
    there = machine(A100, packages=debians)
    said = problem(make_plan(NVIDIA, there))
    assert said.startswith(
        "Debian's driver packages are installed (nvidia-smi 550.163.01-2, libnvidia-ml1 550.163.01-2)"
    )
    assert "nvidia_gpu_drivers_replace" in said
    plan = make_plan(replace(NVIDIA, replace=True), there)
    assert (plan.problems, plan.remove, plan.satisfied) == ((), ("libnvidia-ml1", "nvidia-smi"), False)

    theirs = machine(A100, packages=(package("nvidia-driver-cuda", "580.65.06-1", "cudatools <cudatools@nvidia.com>"),))
    assert problem(make_plan(DEBIAN, theirs)).startswith("NVIDIA's driver packages are installed")
    assert make_plan(NVIDIA, theirs).problems == ()


def test_neighbours_of_a_driver_are_no_mix() -> None:
    neighbours = (
        package("nvidia-container-toolkit-base", "1.20.0-1", "NVIDIA <x@nvidia.com>"),
        package("libnvidia-container1", "1.20.0-1", "NVIDIA <x@nvidia.com>"),
        package("nvidia-cuda-toolkit", "12.4"),
        package("slurm-wlm-nvml-plugin", "24.11.5-2"),
    )
    assert make_plan(DEBIAN, machine(packages=neighbours)).problems == ()
    assert make_plan(NVIDIA, machine(packages=neighbours)).problems == ()


def test_a_driver_of_the_installer_is_refused() -> None:
    assert "nvidia-uninstall" in problem(make_plan(NVIDIA, replace(machine(), runfile=True)))


def stack_of(plan: Plan, version: str, by: str = "NVIDIA <x@nvidia.com>") -> tuple[Package, ...]:
    return tuple(package(name, version, by) for name in plan.packages)


def test_satisfied_by_what_is_there() -> None:
    wanted = make_plan(NVIDIA, machine(A100))
    assert not wanted.satisfied
    there = stack_of(wanted, "580.65.06-1")
    plan = make_plan(NVIDIA, machine(A100, packages=there))
    assert (plan.satisfied, plan.installed_version) == (True, "580.65.06-1")
    assert not make_plan(replace(NVIDIA, branch="595"), machine(A100, packages=there)).satisfied
    assert not make_plan(replace(NVIDIA, version="580.65.07"), machine(A100, packages=there)).satisfied
    assert not make_plan(NVIDIA, machine(A100, packages=there[1:])).satisfied
    assert not make_plan(NVIDIA, replace(machine(A100, packages=there), interrupted=True)).satisfied
    half = (replace(there[0], status="half-configured"), *there[1:])
    assert not make_plan(NVIDIA, machine(A100, packages=half)).satisfied


def test_a_branch_does_not_move_what_is_there() -> None:
    there = stack_of(make_plan(NVIDIA, machine(A100)), "580.65.06-1")
    more = make_plan(replace(NVIDIA, fabric_manager=True), machine(A100, packages=there))
    assert (more.satisfied, more.version_glob) == (False, "580.65.06-*")
    mixed = (*there[:-1], replace(there[-1], version="580.126.09-1"))
    plan = make_plan(NVIDIA, machine(A100, packages=mixed))
    assert (plan.satisfied, plan.version_glob) == (False, "580.65.06-*")
    assert make_plan(replace(NVIDIA, branch="595"), machine(A100, packages=there)).version_glob == "595.*"


def test_a_revision_is_that_of_the_modules_package() -> None:
    wanted = make_plan(DEBIAN, machine(A100))
    debian = "Debian <x@lists.debian.org>"
    there = stack_of(wanted, "550.163.01-1", debian)
    exact = replace(DEBIAN, version="550.163.01-2")
    assert not make_plan(exact, machine(A100, packages=there)).satisfied
    assert wanted.packages[0] == wanted.dkms_package
    there = (replace(there[0], version="550.163.01-2"), *there[1:])
    assert make_plan(exact, machine(A100, packages=there)).satisfied


def test_the_other_kind_of_module_is_removed() -> None:
    there = stack_of(make_plan(NVIDIA, machine(A100)), "580.65.06-1")
    plan = make_plan(replace(NVIDIA, flavour="proprietary"), machine(A100, packages=there))
    assert (plan.remove, plan.satisfied, plan.problems) == (("nvidia-kernel-open-dkms",), False, ())


def test_nothing_is_wanted_without_a_gpu() -> None:
    careful = replace(DEBIAN, only_with_gpu=True)
    plan = make_plan(careful, machine(kernels=()))
    assert (plan.wanted, plan.problems) == (False, ())
    assert make_plan(careful, machine(A100)).wanted
    assert make_plan(replace(careful, image=True), machine()).wanted


def test_problems_of_the_bus_are_told() -> None:
    assert (
        problem(make_plan(DEBIAN, replace(machine(), problems=(Problem("sysfs_unreadable", "no sysfs"),))))
        == "no sysfs"
    )


@pytest.mark.parametrize(
    ("version", "branch", "glob", "good", "bad"),
    [
        ("", "580", "580.*", "580.126.09-1", "5801.1-1"),
        ("580.126.09", "580", "580.126.09-*", "580.126.09-1", "580.126.091-1"),
        ("550.163.01-2", "", "550.163.01-2", "550.163.01-2", "550.163.01-21"),
    ],
)
def test_versions(version: str, branch: str, glob: str, good: str, bad: str) -> None:
    assert version_glob(version, branch) == glob
    assert matches(good, glob)
    assert not matches(bad, glob)
    assert matches(bad, "")


def test_words_of_packages() -> None:
    assert upstream("580.126.09-1") == "580.126.09"
    assert upstream("1:550.163.01-4~bpo13+1") == "550.163.01"
    assert upstream("12") == "12"
    assert (branch_of("580.126.09"), branch_of("latest"), branch_of("")) == (580, 0, 0)
    told = (
        "a\t1\tinstalled\tX <x@debian.org>\nb\t\tnot-installed\t\nc\t2\tconfig-files\tY\nd\t3\tunpacked\tZ\twith tab\n"
    )
    assert [(p.name, p.status, p.debian) for p in parse_packages(told)] == [
        ("a", "installed", True),
        ("d", "unpacked", False),
    ]
