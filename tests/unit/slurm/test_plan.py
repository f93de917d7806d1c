# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory, Problem
from ansible_collections.hpc.compute.plugins.module_utils.slurm.cpus import CpuTopology
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import GresMode, GresRefusedError, plan_gres
from unit.slurm.machines import A100, gpu, machine, undriven

_H100 = "nvidia_h100_80gb_hbm3"
_MISSING = Problem("driver_missing", "GPU 0000:01:00.0 is present but has no kernel driver", "0000:01:00.0")


def _uncut() -> Inventory:
    problem = Problem("mig_without_instances", "GPU 0000:02:00.0 has MIG on but no instance", "0000:02:00.0")
    return machine(gpu(0), gpu(1, profiles=()), problems=(problem,))


def test_no_gpu_is_no_gres() -> None:
    plan = plan_gres(machine())
    assert (plan.gres, plan.gres_types, plan.accounting_tres, plan.bindings) == ("", [], [], ())
    assert "AutoDetect" not in plan.text


def test_every_device_by_default() -> None:
    plan = plan_gres(machine(gpu(0), gpu(1, profiles=("3g.40gb", "1g.10gb", "1g.10gb"))))
    assert plan.gres == f"gpu:{_H100}:1,gpu:{_H100}_1g.10gb:2,gpu:{_H100}_3g.40gb:1"
    assert plan.gres_types == ["gpu"]
    assert plan.accounting_tres == [
        "gres/gpu",
        f"gres/gpu:{_H100}",
        f"gres/gpu:{_H100}_1g.10gb",
        f"gres/gpu:{_H100}_3g.40gb",
    ]
    assert len(plan.bindings) == len(plan.devices) == 4
    assert plan.text.count("\n#   ") == 4


def test_wanted_names_are_kept_in_their_order() -> None:
    plan = plan_gres(machine(gpu(0), gpu(1, profiles=("3g.40gb",))), wanted="gpu:h100:1,gpu:3g.40gb:1,nic:2")
    assert plan.gres == "gpu:h100:1,gpu:3g.40gb:1,nic:2"
    assert plan.gres_types == ["gpu", "nic"]
    assert [one.label for one in plan.bindings] == ["h100", "3g.40gb"]


def test_a_refused_name_comes_with_the_whole_list() -> None:
    with pytest.raises(GresRefusedError) as refused:
        plan_gres(machine(gpu(0, A100, profiles=("1g.5gb",))), wanted="gpu:a100-1g.5gb:1")
    message = str(refused.value)
    assert "write nvidia_a100_1g.5gb" in message
    assert message.endswith("Every device of this machine is in Gres=gpu:nvidia_a100_1g.5gb:1")


def test_the_whole_list_is_said_once() -> None:
    with pytest.raises(GresRefusedError) as refused:
        plan_gres(machine(gpu(0), gpu(1)), wanted="gpu:h100:1")
    assert str(refused.value).count(f"gpu:{_H100}:2") == 1


def test_mixed_types_are_refused() -> None:
    with pytest.raises(GresRefusedError, match="has no type while other GPUs have one"):
        plan_gres(machine(gpu(0), gpu(1)), wanted="gpu:h100:1,gpu:1")


def test_bad_syntax_is_refused() -> None:
    with pytest.raises(GresRefusedError, match="write the count after the type"):
        plan_gres(machine(gpu(0)), wanted="gpu:1g.5gb")


def test_gpus_wanted_where_there_are_none() -> None:
    with pytest.raises(GresRefusedError, match=r"no GPU that Slurm could use.*Gres=\(nothing\)"):
        plan_gres(machine(), wanted="gpu:h100:1")


def test_sharing_in_gres_alone_is_refused() -> None:
    with pytest.raises(GresRefusedError, match=r"Gres= has shard:8, but gres.conf is to share GPUs as nothing"):
        plan_gres(machine(gpu(0)), wanted="gpu:h100:1,shard:8")


def test_leaving_devices_out_must_be_allowed() -> None:
    two = machine(gpu(0), gpu(1))
    with pytest.raises(GresRefusedError, match="no entry is left for"):
        plan_gres(two, wanted="gpu:h100:1")
    cut = machine(gpu(0, profiles=("1g.10gb", "1g.10gb")), gpu(1, A100, profiles=("1g.5gb",)))
    assert len(plan_gres(cut, wanted="gpu:1g.10gb:2", allow_unlisted=True).bindings) == 2


def test_fewer_gpus_than_the_links_speak_of_are_refused() -> None:
    """The real controller: "Invalid GRES Links value (-1,0) on node ...: i=1 >= link_len=1"."""
    two = machine(gpu(0), gpu(1))
    with pytest.raises(GresRefusedError, match="NVLinks between all 2 GPUs that it detects, while 1 are offered"):
        plan_gres(two, wanted="gpu:h100:1", allow_unlisted=True)
    static = plan_gres(two, wanted=f"gpu:{_H100}:1", allow_unlisted=True, mode=GresMode("off"))
    assert [one.device.file for one in static.bindings] == ["/dev/nvidia0"]


def test_a_missing_driver_is_refused_in_the_inventorys_words() -> None:
    with pytest.raises(GresRefusedError) as refused:
        plan_gres(machine(undriven(gpu(0)), problems=(_MISSING,)))
    assert str(refused.value) == _MISSING.message
    assert refused.value.problems == (_MISSING,)


def test_ignoring_problems_leaves_the_other_gpus() -> None:
    plan = plan_gres(machine(undriven(gpu(1)), gpu(0), problems=(_MISSING,)), ignore_problems=True)
    assert plan.gres == f"gpu:{_H100}:1"
    assert plan.warnings == (_MISSING.message,)


@pytest.mark.parametrize("code", ["board_unknown", "mode_change_pending"])
def test_harmless_problems_only_warn(code: str) -> None:
    plan = plan_gres(machine(gpu(0), problems=(Problem(code, "take note"),)))
    assert plan.gres == f"gpu:{_H100}:1"
    assert plan.warnings == ("take note",)


def test_mig_without_instances_is_refused() -> None:
    with pytest.raises(GresRefusedError, match="has MIG on but no instance"):
        plan_gres(_uncut())


def test_mig_without_instances_is_not_offered_when_ignored() -> None:
    """Each other device has its own name here, so Slurm gives nobody the one that is of no use."""
    plan = plan_gres(
        machine(gpu(0), gpu(1, A100, profiles=()), gpu(2, profiles=("1g.10gb",) * 2), problems=_uncut().problems),
        ignore_problems=True,
        wanted="gpu:h100:1,gpu:1g.10gb:2",
    )
    assert plan.bindings[0].device.file == "/dev/nvidia0"
    assert [one.type for one in plan.devices] == [_H100, f"{_H100}_1g.10gb", f"{_H100}_1g.10gb"]


def test_mig_without_instances_beside_its_like_is_bound_by_file() -> None:
    swapped = machine(gpu(0, minor=1), gpu(1, minor=0, profiles=()), problems=_uncut().problems)
    with pytest.raises(GresRefusedError, match=r"Slurm would offer .* MIG is on there and it has no instance"):
        plan_gres(swapped, ignore_problems=True)


def test_before_installation_nothing_can_be_known() -> None:
    bare = machine(undriven(gpu(0)), problems=(_MISSING,))
    plan = plan_gres(bare, not_installed_yet=True)
    assert (plan.gres, plan.devices) == ("", [])
    assert "AutoDetect=nvml" in plan.text, "the machine has a GPU"
    assert plan.warnings == (_MISSING.message,)
    assert plan_gres(bare, not_installed_yet=True, wanted="gpu:h100:1").gres == "gpu:h100:1"


def test_before_installation_other_problems_still_count() -> None:
    with pytest.raises(GresRefusedError, match="fell off"):
        plan_gres(
            machine(undriven(gpu(0)), problems=(Problem("gpu_lost", "GPU fell off the bus"),)), not_installed_yet=True
        )


def test_before_installation_what_is_known_is_checked() -> None:
    half = machine(undriven(gpu(0)), gpu(1), problems=(_MISSING,))
    with pytest.raises(GresRefusedError, match="quadro"):
        plan_gres(half, not_installed_yet=True, wanted="gpu:quadro:1")


_TWO_SOCKETS = CpuTopology({cpu: cpu for cpu in range(8)}, cores_per_socket=4)


def test_half_a_socket_warns_where_slurm_detects() -> None:
    """The real controller: "GRES autodetected core affinity 0 on node ... doesn't match socket boundaries"."""
    half = machine(replace(gpu(0), cpu_affinity="0-1"))
    (warning,) = plan_gres(half, _TWO_SOCKETS).warnings
    assert "near cores 0-1, a part of a socket only" in warning
    assert plan_gres(machine(gpu(0)), _TWO_SOCKETS).warnings == ()
    static = plan_gres(half, _TWO_SOCKETS, mode=GresMode("off"))
    assert static.warnings == ()
    assert "Cores=0-3 " in static.text


def test_whole_gpus_behind_a_cut_one_warn_where_slurm_detects() -> None:
    """The real controller gave a job that asked for two such GPUs one, and its step could not be created."""
    mixed = machine(gpu(0, profiles=("1g.10gb",) * 2), gpu(1), gpu(2))
    (warning,) = plan_gres(mixed).warnings
    assert "/dev/nvidia1) comes after a GPU that is cut" in warning
    assert plan_gres(mixed, mode=GresMode("off")).warnings == ()
    assert plan_gres(machine(gpu(0), gpu(1), gpu(2, profiles=("1g.10gb",) * 2))).warnings == ()
    assert plan_gres(machine(gpu(0, profiles=("1g.10gb",) * 2), gpu(1))).warnings == (), "one can't be misplaced"


def test_static_names_and_map() -> None:
    mode = GresMode("off", {"nvidia_a100*_1g.5gb": "a100-1g.5gb"})
    cut = machine(gpu(0), gpu(1, A100, profiles=("1g.5gb", "1g.5gb")))
    plan = plan_gres(cut, mode=mode)
    assert plan.gres == f"gpu:a100-1g.5gb:2,gpu:{_H100}:1"
    assert plan.accounting_tres == ["gres/gpu", "gres/gpu:a100-1g.5gb", f"gres/gpu:{_H100}"]
    assert plan.uuid_map.splitlines()[1:] == [
        "0 MIG-1-0 /dev/nvidia1,/dev/nvidia-caps/nvidia-cap110,/dev/nvidia-caps/nvidia-cap111",
        "1 MIG-1-1 /dev/nvidia1,/dev/nvidia-caps/nvidia-cap112,/dev/nvidia-caps/nvidia-cap113",
        "2 GPU-0 /dev/nvidia0",
    ]
    ordered = plan_gres(cut, mode=mode, wanted=f"gpu:{_H100}:1,gpu:a100-1g.5gb:2")
    assert ordered.uuid_map.splitlines()[1] == "0 GPU-0 /dev/nvidia0", "places follow the order in Gres="


def test_static_refusal_comes_with_the_sites_names() -> None:
    mode = GresMode("off", {"*_1g.5gb": "small"})
    with pytest.raises(GresRefusedError, match=r"gpu:large:1 asks for 1 and there are 0.*has gpu:small:1"):
        plan_gres(machine(gpu(0, A100, profiles=("1g.5gb",))), mode=mode, wanted="gpu:large:1")


def test_types_need_static_mode() -> None:
    with pytest.raises(GresRefusedError, match="types need autodetect off"):
        plan_gres(machine(gpu(0)), mode=GresMode("nvml", {"*": "gpu"}))


def test_static_without_gpu() -> None:
    plan = plan_gres(machine(), mode=GresMode("off", {"*": "gpu"}))
    assert (plan.gres, plan.uuid_map) == ("", "")
    assert "No GPU was found" in plan.text


@pytest.mark.parametrize("autodetect", ["nvml", "off"])
def test_shards_are_lines_and_entries(autodetect: Literal["nvml", "off"]) -> None:
    mode = GresMode(autodetect, {}, {"shard": {"*h100*": 8}})
    plan = plan_gres(machine(gpu(0), gpu(1)), mode=mode)
    assert plan.gres == f"gpu:{_H100}:2,shard:16"
    assert plan.gres_types == ["gpu", "shard"]
    assert "Name=shard Count=8 File=/dev/nvidia0 Flags=nvidia_gpu_env\n" in plan.text
    assert plan_gres(machine(gpu(0), gpu(1)), mode=mode, wanted=plan.gres).gres == plan.gres
    assert plan_gres(machine(gpu(0), gpu(1)), mode=mode, wanted=f"gpu:{_H100}:2").gres == plan.gres


def test_sharing_that_differs_from_gres_or_has_no_name_is_refused() -> None:
    mode = GresMode("nvml", {}, {"shard": {"*": 4}})
    with pytest.raises(GresRefusedError, match=r"Gres= has shard:8, but gres.conf is to share GPUs as shard:4"):
        plan_gres(machine(gpu(0)), mode=mode, wanted="gpu:h100:1,shard:8")
    with pytest.raises(GresRefusedError, match="expected to share GPUs by shard or mps, found time"):
        plan_gres(machine(gpu(0)), mode=GresMode("nvml", {}, {"time": {"*": 4}}))
    with pytest.raises(GresRefusedError, match="found the slice"):
        plan_gres(machine(gpu(0), gpu(1, profiles=("1g.10gb",) * 2)), mode=mode)
