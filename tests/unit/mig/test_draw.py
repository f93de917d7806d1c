# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The terminal picture: to scale, complete, and readable at every width."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import (
    ComputeInstance,
    Gpu,
    GpuInstance,
    Inventory,
    MigState,
    Placement,
)
from ansible_collections.hpc.compute.plugins.module_utils.mig.draw import draw

WHOLE = Gpu(
    "0000:17:00.0",
    "10de",
    "2330",
    board="h100_80",
    index=0,
    uuid="GPU-a",
    name="NVIDIA H100 80GB HBM3",
    memory_mib=81920,
    mig=MigState(capable=True, current=False, pending=False),
)


def instance(gi: int, profile: str, start: int, size: int, *uuids: str) -> GpuInstance:
    cis = tuple(ComputeInstance(number, 0, uuid=uuid) for number, uuid in enumerate(uuids))
    return GpuInstance(gi, 19, profile, Placement(start, size), compute_instances=cis)


CUT = replace(
    WHOLE,
    pci_address="0000:3d:00.0",
    index=1,
    uuid="GPU-b",
    mig=MigState(capable=True, current=True, pending=True),
    gpu_instances=(
        # not in the order of their placement, as a driver lists them
        instance(2, "3g.40gb", 4, 4, "MIG-3"),
        instance(5, "1g.10gb", 0, 1, "MIG-1"),
    ),
)


def test_whole_and_cut_gpu() -> None:
    picture = draw(Inventory(gpus=(WHOLE, CUT)), {"GPU-a": "job 7 alice", "MIG-3": "job 8 bob"}, width=65)
    assert picture == "\n".join(
        [
            "GPU 0  0000:17:00.0  NVIDIA H100 80GB HBM3  whole, 80 GiB",
            "┌───────────────────────────────────────────────────────────────┐",
            "│ job 7 alice                                                   │",
            "└───────────────────────────────────────────────────────────────┘",
            "GPU 1  0000:3d:00.0  NVIDIA H100 80GB HBM3  MIG, 2 slices",
            "┌───────┬───────────────────────┬───────────────────────────────┐",
            "│1g.10gb│·······················│ 3g.40gb                       │",
            "│ idle  │·······················│ job 8 bob                     │",
            "└───────┴───────────────────────┴───────────────────────────────┘",
        ]
    )


@pytest.mark.parametrize("width", [0, 24, 65, 200])
def test_slices_keep_their_scale_and_all_lines_one_length(width: int) -> None:
    lines = draw(Inventory(gpus=(CUT,)), {"MIG-1": "job 123456 somebody"}, width=width).splitlines()[1:]
    assert len({len(line) for line in lines}) == 1
    column = max(3, (width - 1) // 8)
    assert [len(part) + 1 for part in lines[0][1:-1].split("┬")] == [column, 3 * column, 4 * column]


def test_long_words_are_broken_never_lost() -> None:
    lines = draw(Inventory(gpus=(CUT,)), {"MIG-1": "job 123456789 somebody"}, width=33).splitlines()
    first_cell = "".join(line[1:4].strip() for line in lines[2:-1])
    assert first_cell == "1g.10gbjob123456789somebody"


def test_a30_and_unknown_boards_have_their_own_grid() -> None:
    a30 = replace(CUT, board="a30", gpu_instances=(instance(1, "2g.12gb", 2, 2, "MIG-1"),))
    assert draw(Inventory(gpus=(a30,)), width=41).splitlines()[1] == "┌" + "─" * 19 + "┬" + "─" * 19 + "┐"
    unknown = replace(CUT, board=None, gpu_instances=(instance(1, "1g.24gb", 9, 3, "MIG-1"),))
    assert draw(Inventory(gpus=(unknown,)), width=61).splitlines()[1] == "┌" + "─" * 44 + "┬" + "─" * 14 + "┐"


def test_gpu_instance_without_compute_instance_and_without_name() -> None:
    bare = replace(CUT, gpu_instances=(replace(instance(1, "", 0, 8), profile=None),))
    lines = draw(Inventory(gpus=(bare,)), width=65).splitlines()
    assert "MIG, 0 slices" in lines[0]
    assert lines[2].startswith("│ profile 19")
    assert lines[3].startswith("│ no CI")


def test_one_slice_is_singular() -> None:
    assert (
        draw(Inventory(gpus=(replace(CUT, gpu_instances=CUT.gpu_instances[:1]),))).splitlines()[0][-12:]
        == "MIG, 1 slice"
    )


def test_gpu_without_driver() -> None:
    dark = Gpu("0000:17:00.0", "10de", "2330")
    lines = draw(Inventory(gpus=(dark,)), width=65).splitlines()
    assert lines[0] == "GPU ?  0000:17:00.0  NVIDIA 2330"
    assert "driver does not answer" in lines[2]


def test_no_gpu_is_a_sentence() -> None:
    assert draw(Inventory()) == "no NVIDIA GPU in this machine"


def test_ascii() -> None:
    picture = draw(Inventory(gpus=(WHOLE, CUT)), width=65, ascii_only=True)
    assert picture.isascii()
    assert picture.splitlines()[1].startswith("+---")
