# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of configuration that mig-parted's default file has, for every board: planned, or refused for a reason."""

from __future__ import annotations

import time

import pytest
import yaml
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Gpu, Inventory
from ansible_collections.hpc.compute.plugins.module_utils.mig.catalog import Board, board_for, boards
from ansible_collections.hpc.compute.plugins.module_utils.mig.explain import Infeasible
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import Layout
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout_file import load_layout
from ansible_collections.hpc.compute.plugins.module_utils.mig.machine import plan_machine
from ansible_collections.hpc.compute.plugins.module_utils.mig.plan import GpuPlan
from unit.mig.plan_oracle import StrictGpu, allowed, board_named, plain_gpu

#: One of each size, as a balanced layout has it: by the number of compute slices of the board.
BALANCED = {7: {1: 2, 2: 1, 3: 1}, 4: {1: 2, 2: 1}}


def filters(board: Board) -> list[str]:
    return [f"0x{device_id.upper()}10DE" for device_id in board.pci_device_ids]


def plain_name(board: Board, slices: int) -> str:
    """The least of the plain profiles with so many compute slices, in the catalogue's words."""
    fitting = [one for one in board.profiles if one.compute_slices == slices and one.name.endswith("gb")]
    return min(fitting, key=lambda one: one.memory_slots).name


def file_text() -> str:
    """A file of the same kinds as the default one: off, on, all of one profile, balanced by device filter."""
    everywhere = [{"devices": "all", "mig-enabled": False}]
    configs: dict[str, list[dict[str, object]]] = {
        "all-disabled": everywhere,
        "all-enabled": [{"devices": "all", "mig-enabled": True, "mig-devices": {}}],
        "all-balanced": [],
    }
    for board in boards():
        for profile in board.profiles:
            configs.setdefault(f"all-{profile.name}", []).append(
                {
                    "device-filter": filters(board),
                    "devices": "all",
                    "mig-enabled": True,
                    "mig-devices": {profile.name: profile.max_count},
                }
            )
        balanced = {plain_name(board, size): count for size, count in BALANCED[board.compute_slices].items()}
        configs["all-balanced"].append(
            {"device-filter": filters(board), "devices": "all", "mig-enabled": True, "mig-devices": balanced}
        )
    return yaml.safe_dump({"version": "v1", "mig-configs": configs})


def gpus() -> list[Gpu]:
    """One GPU of every PCI id in the catalogue, MIG off."""
    return [
        Gpu(
            f"0000:{number + 1:02x}:00.0",
            "10de",
            device_id,
            board=board.key,
            index=number,
            mig=plain_gpu(board, False).mig,
        )
        for number, (board, device_id) in enumerate((board, one) for board in boards() for one in board.pci_device_ids)
    ]


def outcome(layout: Layout, config: str, gpu: Gpu) -> GpuPlan | Infeasible | None:
    (only,) = plan_machine(Inventory((gpu,)), layout.config(config)).outcomes
    return only.result


def test_every_kind_of_configuration_on_every_board_in_less_than_a_second() -> None:
    text, machines = file_text(), gpus()
    begin = time.process_time()
    layout = load_layout(text)
    results = {(config, gpu.device_id): outcome(layout, config, gpu) for config in layout.configs for gpu in machines}
    assert time.process_time() - begin < 1
    for (config, device_id), result in results.items():
        board = board_for(device_id)
        assert board is not None
        name = config.removeprefix("all-")
        if config.startswith("all-") and name not in ("disabled", "enabled", "balanced"):
            # A stanza per board: those of other boards leave this one alone.
            assert (result is None) == (board.profile_named(name) is None), (config, device_id)
        if result is not None:
            assert isinstance(result, GpuPlan), (config, device_id)
            done = StrictGpu(board, plain_gpu(board, False)).run(result.steps)
            assert done.demand() == result.demand
            assert allowed(board, done.instances.values())
    counted = {
        config: sum(one is not None for (name, _), one in results.items() if name == config)
        for config in layout.configs
    }
    assert counted["all-disabled"] == counted["all-enabled"] == counted["all-balanced"] == len(machines)


@pytest.mark.parametrize("board", boards(), ids=lambda board: board.key)
def test_one_more_than_all_is_refused_on_every_board(board: Board) -> None:
    for profile in board.profiles:
        text = yaml.safe_dump(
            {
                "version": "v1",
                "mig-configs": {
                    "a": [{"devices": "all", "mig-enabled": True, "mig-devices": {profile.name: profile.max_count + 1}}]
                },
            }
        )
        result = outcome(load_layout(text), "a", plain_gpu(board, False))
        assert isinstance(result, Infeasible), profile.name
        assert result.code in ("compute_slices", "memory_slots", "media_extensions", "engines"), profile.name
        assert result.nearest is not None
        assert dict(result.nearest.mig_devices) == {profile.name: profile.max_count}


@pytest.mark.parametrize(
    ("key", "devices", "nearest"),
    [
        # Names of the first GB200 boards, which the shipped file still has beside those of today's.
        ("gb200", {"3g.95gb": 2}, {"3g.93gb": 2}),
        ("gb200", {"7g.189gb": 1}, {"7g.186gb": 1}),
        ("gb200", {"1g.24gb": 2, "2g.47gb": 1, "3g.95gb": 1}, {"1g.23gb": 2, "2g.47gb": 1, "3g.93gb": 1}),
        ("gb200", {"1g.24gb": 7}, {"1g.23gb": 7}),
        # Another board's names: each stanza without a device filter meets every GPU of the machine.
        ("a100_40", {"1g.6gb": 4}, {"1g.5gb": 4}),
        ("h100_94", {"3g.40gb": 2}, {"3g.47gb": 2}),
        ("a30", {"3g.24gb": 1}, {}),
        ("rtxpro6000", {"1g.24gb": 7}, {"1g.24gb": 4}),
    ],
)
def test_what_a_board_cannot_do_is_answered_with_what_it_can(
    key: str, devices: dict[str, int], nearest: dict[str, int]
) -> None:
    board = board_named(key)
    entry = {"devices": "all", "mig-enabled": True, "mig-devices": devices}
    layout = load_layout(yaml.safe_dump({"version": "v1", "mig-configs": {"a": [entry]}}))
    result = outcome(layout, "a", plain_gpu(board, False))
    assert isinstance(result, Infeasible)
    assert result.nearest is not None
    assert dict(result.nearest.mig_devices) == nearest
