# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.cpus import (
    CpuTopology,
    format_ranges,
    parse_ranges,
    read_topology,
)


def _machine(root: Path, threads: dict[int, tuple[int, str]]) -> None:
    base = root / "sys/devices/system/cpu"
    for cpu, (package, siblings) in threads.items():
        folder = base / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{package}\n")
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    (base / "online").write_text(f"{min(threads)}-{max(threads)}\n")


def test_cores_run_through_one_socket_after_the_other(tmp_path: Path) -> None:
    """Linux deals CPUs out between sockets on many servers: even ones to the first, odd ones to the second."""
    _machine(tmp_path, {cpu: (cpu % 2, str(cpu)) for cpu in range(8)})
    topology = read_topology(tmp_path)
    assert topology is not None
    assert topology.cores([0, 2, 4, 6]) == "0-3"
    assert topology.cores([1, 3]) == "4-5"


def test_threads_of_a_core_count_once(tmp_path: Path) -> None:
    _machine(tmp_path, {cpu: (0, f"{cpu % 4},{cpu % 4 + 4}") for cpu in range(8)})
    topology = read_topology(tmp_path)
    assert topology is not None
    assert topology.cores([0, 4, 5]) == "0-1"


def test_cpus_beyond_the_machine_are_left_out() -> None:
    assert CpuTopology({0: 0, 1: 1}).cores([1, 64]) == "1"


def test_no_topology_is_none(tmp_path: Path) -> None:
    assert read_topology(tmp_path) is None


def test_an_odd_topology_is_none(tmp_path: Path) -> None:
    _machine(tmp_path, {0: (0, "none")})
    assert read_topology(tmp_path) is None


@pytest.mark.parametrize(("text", "numbers"), [("", set()), ("3", {3}), ("0-2,8\n", {0, 1, 2, 8})])
def test_ranges(text: str, numbers: set[int]) -> None:
    assert parse_ranges(text) == numbers
    assert format_ranges(numbers) == text.strip()


def test_bad_ranges() -> None:
    with pytest.raises(ValueError, match="x"):
        parse_ranges("0-x")


def test_a_list_of_more_than_any_machine_has_is_refused() -> None:
    with pytest.raises(ValueError, match="expected numbers below"):
        parse_ranges("0-99999999999")


def test_whole_sockets() -> None:
    two = CpuTopology({cpu: cpu // 2 for cpu in range(16)}, cores_per_socket=4)
    assert two.whole_sockets("1") == "0-3"
    assert two.whole_sockets("6-7") == "4-7"
    assert two.whole_sockets("3-4") is None, "all sockets"
    assert two.whole_sockets("") is None
    assert CpuTopology({0: 0, 1: 1}).whole_sockets("0") is None, "sockets not known"
    assert two.splits_a_socket("0-2")
    assert two.splits_a_socket("0-5")
    assert not two.splits_a_socket("4-7")
    assert not two.splits_a_socket("")
    assert not CpuTopology({0: 0, 1: 1}).splits_a_socket("0")


def test_sockets_of_a_machine(tmp_path: Path) -> None:
    _machine(tmp_path / "even", {cpu: (cpu % 2, str(cpu)) for cpu in range(8)})
    even = read_topology(tmp_path / "even")
    assert even is not None
    assert even.cores_per_socket == 4
    assert even.whole_sockets("5") == "4-7"
    _machine(tmp_path / "odd", {cpu: (0 if cpu < 3 else 1, str(cpu)) for cpu in range(8)})
    odd = read_topology(tmp_path / "odd")
    assert odd is not None
    assert odd.cores_per_socket == 0, "sockets that differ can't be counted through"
