# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The devices that we predict against those of the real slurmd with its real gpu_nvml.so, on emulated GPUs."""

from __future__ import annotations

from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import GresReport, parse_gres_report
from emulator.boards import Board, boards
from integration.slurmd_node import SlurmdNode

# Kinds of slices that only this board has, too many for one of it.
_ODD = "rtxpro6000=2g.48gb+gfx:1g.24gb+gfx:1g.24gb,rtxpro6000=2g.48gb-me:1g.24gb+me.all:1g.24gb-me"


def _report(node: SlurmdNode, gres: str) -> GresReport:
    (answer,) = node.ask_slurmd([{"gres": gres, "fake_gpus": None}])
    assert answer["rc"] == 0, answer["output"]
    return parse_gres_report(answer["output"])


def _cut(board: Board) -> str:
    """The board with a big slice, one with the media extension, and a small one."""
    assert board.mig is not None
    profiles = board.mig.profiles
    parts = (one for one in profiles if one.compute < board.mig.compute_slices)
    big = max(parts, key=lambda one: (one.size, one.compute))
    small = min(profiles, key=lambda one: (one.size, one.compute, len(one.name)))
    return f"{board.key}={big.name}:{small.name}+me:{small.name}"


def _everything() -> str:
    known = boards().values()
    cut = [_cut(board) for board in known if board.mig is not None and board.key != "rtxpro6000"]
    return ",".join([*(board.key for board in known), *cut, _ODD])


def test_every_board_whole_and_cut(slurmd_node: SlurmdNode) -> None:
    slurmd_node.use_gpus(_everything())
    prediction = slurmd_node.predict()
    assert prediction["problems"] == []
    report = _report(slurmd_node, prediction["gres"])
    real = {one.file: (one.type, one.uuid, one.cores, one.links) for one in report.offered}
    predicted = {}
    for one in prediction["devices"]:
        unique_id = one["uuid"] if one["kind"] == "mig" else None
        links = ",".join(map(str, one["links"])) or None
        predicted[",".join(one["files"])] = (one["type"], unique_id, one["cores"] or None, links)
    assert real == predicted
    assert {one["pci_address"] for one in prediction["devices"] if one["kind"] == "mig"} != set()
    assert len(predicted) > 2 * sum(board.mig is not None for board in boards().values())
    assert not report.ignored
    assert not report.discarded
    assert not report.errors


def test_eight_gpus_fully_cut(slurmd_node: SlurmdNode) -> None:
    slurmd_node.use_gpus("8xa100-40=1g.5gb*7")
    prediction = slurmd_node.predict()
    assert prediction["gres"] == "gpu:nvidia_a100_1g.5gb:56"
    report = _report(slurmd_node, prediction["gres"])
    real = {(one.type, one.file, one.uuid) for one in report.offered}
    assert real == {(one["type"], ",".join(one["files"]), one["uuid"]) for one in prediction["devices"]}
    assert len(real) == 56
    assert len({one.uuid for one in report.offered}) == 56


def test_mig_without_instances_is_offered_whole_by_slurmd(slurmd_node: SlurmdNode) -> None:
    """Why such a GPU is refused: slurmd itself would hand it to jobs, which could not use it."""
    slurmd_node.use_gpus("h100-80,h100-80=")
    prediction = slurmd_node.predict()
    assert prediction["problems"] == ["mig_without_instances"]
    report = _report(slurmd_node, prediction["gres"])
    assert [one.type for one in report.offered] == ["nvidia_h100_80gb_hbm3"] * 2
