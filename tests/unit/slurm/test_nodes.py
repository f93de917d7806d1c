# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.nodes import NodeHardware, node_line, parse_hardware

_RECORDED = Path(__file__).parent / "recorded"
_HARDWARE = NodeHardware("gpu01", 112, 1, 2, 28, 2, 1031500)


def test_recorded_hardware() -> None:
    found = parse_hardware((_RECORDED / "hardware.txt").read_text())
    assert found == NodeHardware("vm", 2, 1, 1, 2, 1, 24105)


def test_detected_gres_is_told() -> None:
    found = parse_hardware(
        "NodeName=a CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=9 "
        "Gres=gpu:nvidia_t4:1\n"
        "Found gpu:nvidia_t4:1 with Autodetect=nvml (Substring of gpu name may be used instead)\n"
    )
    assert found.gres == "gpu:nvidia_t4:1"


def test_several_boards() -> None:
    text = "NodeName=a CPUs=16 Boards=2 SocketsPerBoard=2 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=9"
    assert parse_hardware(text).sockets == 4


def test_sockets_without_boards() -> None:
    text = "NodeName=a CPUs=8 Sockets=2 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=9"
    found = parse_hardware(text)
    assert (found.boards, found.sockets) == (1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a line NodeName="),
        ("slurmd: fatal: nothing", "fatal: nothing"),
        ("NodeName=a CPUs=many Boards=1 SocketsPerBoard=1", "expected a number CPUs"),
        ("NodeName=a CPUs=1", "expected a number Sockets"),
    ],
)
def test_odd_output(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_hardware(text)


def test_node_line() -> None:
    assert node_line(_HARDWARE) == (
        "NodeName=gpu01 CPUs=112 Boards=1 SocketsPerBoard=2 CoresPerSocket=28 ThreadsPerCore=2 RealMemory=1031500"
    )
    line = node_line(_HARDWARE, name="n1", gres="gpu:h100:4", real_memory=1000000)
    assert line.startswith("NodeName=n1 ")
    assert line.endswith(" RealMemory=1000000 Gres=gpu:h100:4")


def test_node_line_is_read_back() -> None:
    assert parse_hardware(node_line(_HARDWARE)) == _HARDWARE
