# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory, Problem
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import GresRefusedError, plan_gres
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


def test_sharing_is_refused() -> None:
    with pytest.raises(GresRefusedError, match="shard can't be configured here"):
        plan_gres(machine(gpu(0)), wanted="gpu:h100:1,shard:8")


def test_leaving_devices_out_must_be_allowed() -> None:
    two = machine(gpu(0), gpu(1))
    with pytest.raises(GresRefusedError, match="no entry is left for"):
        plan_gres(two, wanted="gpu:h100:1")
    assert len(plan_gres(two, wanted="gpu:h100:1", allow_unlisted=True).bindings) == 1


def test_a_missing_driver_is_refused_in_the_inventorys_words() -> None:
    with pytest.raises(GresRefusedError) as refused:
        plan_gres(machine(undriven(gpu(0)), problems=(_MISSING,)))
    assert str(refused.value) == _MISSING.message
    assert refused.value.problems == (_MISSING,)


def test_ignoring_problems_leaves_the_other_gpus() -> None:
    plan = plan_gres(machine(undriven(gpu(0)), gpu(1), problems=(_MISSING,)), ignore_problems=True)
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
    """Each other GPU has its own name here, so Slurm gives nobody the one that is of no use."""
    plan = plan_gres(
        machine(gpu(0), gpu(1, A100, profiles=()), problems=_uncut().problems),
        ignore_problems=True,
        wanted="gpu:h100:1",
    )
    assert plan.gres == "gpu:h100:1"
    assert [one.type for one in plan.devices] == [_H100]


def test_mig_without_instances_beside_its_like_is_bound_by_file() -> None:
    plan = plan_gres(_uncut(), ignore_problems=True)
    assert [one.device.file for one in plan.bindings] == ["/dev/nvidia0"]
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
