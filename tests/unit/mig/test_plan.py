# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans for single GPUs: modes, what is kept and rebuilt, and who is in the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import (
    ComputeInstance,
    GpuInstance,
    MigState,
    Placement,
)
from ansible_collections.hpc.compute.plugins.module_utils.mig.catalog import Board, board_for
from ansible_collections.hpc.compute.plugins.module_utils.mig.demand import MIG_OFF, Demand, Want
from ansible_collections.hpc.compute.plugins.module_utils.mig.explain import Infeasible
from ansible_collections.hpc.compute.plugins.module_utils.mig.plan import Conditions, GpuPlan, compute_slices, plan_gpu
from ansible_collections.hpc.compute.plugins.module_utils.mig.solve import Held
from unit.mig.plan_oracle import StrictGpu, board_named, instance, plain_gpu, wants

HOPPER, AMPERE, A30, RTX, B200 = (board_named(key) for key in ("h100_80", "a100_40", "a30", "rtxpro6000", "b200"))


def planned(plan: GpuPlan | Infeasible) -> GpuPlan:
    assert isinstance(plan, GpuPlan), plan
    return plan


def refused(plan: GpuPlan | Infeasible, code: str) -> str:
    assert isinstance(plan, Infeasible), plan
    assert plan.code == code
    return plan.describe()


def actions(plan: GpuPlan) -> list[str]:
    return [step.action for step in plan.steps]


def starts(plan: GpuPlan) -> list[tuple[str, int]]:
    return [(one.profile, one.placement.start) for one in plan.instances]


def on(board: Board, *names: str) -> Demand:
    return Demand(True, wants(board, *names))


@pytest.mark.parametrize(
    ("board", "current", "pending", "enabled", "expected"),
    [
        (HOPPER, False, False, True, ["set_mode"]),
        (HOPPER, True, True, True, []),
        (HOPPER, True, True, False, ["set_mode"]),
        (HOPPER, False, False, False, []),
        # Hopper never has a mode pending; should one say so, the switch is thrown again.
        (HOPPER, False, True, True, ["set_mode"]),
        (AMPERE, False, False, True, ["set_mode", "reset_gpu"]),
        (AMPERE, False, True, True, ["reset_gpu"]),
        (AMPERE, True, True, True, []),
        (AMPERE, True, False, True, ["set_mode"]),
        (AMPERE, True, True, False, ["set_mode", "reset_gpu"]),
        (AMPERE, True, False, False, ["reset_gpu"]),
        (AMPERE, False, True, False, ["set_mode"]),
        (AMPERE, False, False, False, []),
    ],
)
def test_modes_change_with_as_little_as_the_board_needs(
    board: Board, current: bool, pending: bool, enabled: bool, expected: list[str]
) -> None:
    gpu = plain_gpu(board, current, pending)
    plan = planned(plan_gpu(gpu, board, Demand(enabled)))
    assert actions(plan) == expected
    assert plan.changed == bool(expected)
    assert plan.reset_required == ("reset_gpu" in expected)
    assert StrictGpu(board, gpu).run(plan.steps).mode == enabled


def test_a_pending_mode_that_is_not_told_counts_as_the_current_one() -> None:
    gpu = replace(plain_gpu(AMPERE), mig=MigState(True, True, None))
    assert not planned(plan_gpu(gpu, AMPERE, Demand(True))).changed
    assert actions(planned(plan_gpu(gpu, AMPERE, MIG_OFF))) == ["set_mode", "reset_gpu"]


def test_one_hopper_class_board_that_is_an_ampere_is_reset() -> None:
    board = board_for("20b6")
    assert board is not None
    assert planned(plan_gpu(plain_gpu(board, False), board, Demand(True))).reset_required


def test_a_board_nobody_knows_is_reset_to_be_sure_and_switched_off_only() -> None:
    gpu = plain_gpu(HOPPER)
    assert actions(planned(plan_gpu(gpu, None, MIG_OFF))) == ["set_mode", "reset_gpu"]
    assert "plan on the machine" in refused(plan_gpu(gpu, None, Demand(True)), "board_unknown")


def test_off_destroys_compute_instances_first_and_then_switches() -> None:
    gpu = plain_gpu(AMPERE, instances=[instance(AMPERE, 7, "1g.5gb", 6), instance(AMPERE, 1, "3g.20gb", 0)])
    plan = planned(plan_gpu(gpu, AMPERE, MIG_OFF))
    assert [step.describe() for step in plan.steps] == [
        "Destroy compute instance 0 of GPU instance 1 (3g.20gb at slots 0-3).",
        "Destroy compute instance 0 of GPU instance 7 (1g.5gb at slot 6).",
        "Destroy GPU instance 1 (3g.20gb at slots 0-3).",
        "Destroy GPU instance 7 (1g.5gb at slot 6).",
        "Switch MIG mode off.",
        "Reset the GPU (or reboot), so that MIG mode is off.",
    ]
    assert plan.destroyed == (1, 7)
    assert not plan.kept


def test_what_matches_already_needs_no_step() -> None:
    gpu = plain_gpu(HOPPER, instances=[instance(HOPPER, 2, "1g.10gb", 2), instance(HOPPER, 5, "3g.40gb", 4)])
    plan = planned(plan_gpu(gpu, HOPPER, on(HOPPER, "3g.40gb", "1g.10gb"), Conditions(frozenset({2, 5}))))
    assert not plan.changed
    assert plan.kept == (2, 5)
    assert starts(plan) == [("1g.10gb", 2), ("3g.40gb", 4)]
    assert plan.demand.counts() == {9: 1, 19: 1}


def test_an_empty_gpu_is_filled_from_above_and_keeps_its_low_slots_free() -> None:
    assert starts(planned(plan_gpu(plain_gpu(HOPPER), HOPPER, on(HOPPER, "1g.10gb")))) == [("1g.10gb", 6)]
    assert starts(planned(plan_gpu(plain_gpu(HOPPER), HOPPER, on(HOPPER, "2g.20gb")))) == [("2g.20gb", 4)]
    assert starts(planned(plan_gpu(plain_gpu(HOPPER), HOPPER, on(HOPPER, "3g.40gb")))) == [("3g.40gb", 4)]
    assert starts(planned(plan_gpu(plain_gpu(A30), A30, on(A30, "1g.6gb", "1g.6gb")))) == [("1g.6gb", 2), ("1g.6gb", 3)]
    assert starts(planned(plan_gpu(plain_gpu(RTX), RTX, on(RTX, "1g.24gb")))) == [("1g.24gb", 9)]


def test_four_small_ones_beside_a_3g_have_one_arrangement_only() -> None:
    plan = planned(plan_gpu(plain_gpu(HOPPER), HOPPER, on(HOPPER, "3g.40gb", *["1g.10gb"] * 4)))
    assert starts(plan) == [*(("1g.10gb", slot) for slot in range(4)), ("3g.40gb", 4)]
    # The largest comes first, so that a driver which ignored the placement would still have room for it.
    assert next(step for step in plan.steps if step.action == "create_gpu_instance").describe().endswith("4-7.")


def test_the_fewest_are_destroyed_even_when_that_takes_the_larger_one() -> None:
    small = [instance(HOPPER, gi, "1g.10gb", gi) for gi in range(3)]
    gpu = plain_gpu(HOPPER, instances=[*small, instance(HOPPER, 9, "3g.40gb", 4)])
    plan = planned(plan_gpu(gpu, HOPPER, on(HOPPER, "1g.10gb", "1g.10gb", "1g.10gb", "2g.20gb")))
    assert plan.destroyed == (9,)
    assert plan.kept == (0, 1, 2)


def test_a_busy_instance_in_the_way_of_the_cheapest_answer_costs_another_one() -> None:
    gpu = plain_gpu(HOPPER, instances=[instance(HOPPER, 1, "1g.10gb", 0), instance(HOPPER, 2, "1g.10gb", 4)])
    free = planned(plan_gpu(gpu, HOPPER, on(HOPPER, "1g.10gb", "4g.40gb")))
    assert free.destroyed == (1,)
    text = refused(plan_gpu(gpu, HOPPER, on(HOPPER, "1g.10gb", "4g.40gb"), Conditions(frozenset({1}))), "busy")
    assert "around the busy 1g.10gb at slot 0 (GPU instance 1)" in text
    assert "nearest layout that fits is 1 x 1g.10gb, without 1 x 4g.40gb" in text
    assert planned(plan_gpu(gpu, HOPPER, on(HOPPER, "1g.10gb", "4g.40gb"), Conditions(frozenset({1}), allow_busy=True)))


def test_a_busy_instance_the_layout_does_not_want_refuses_it() -> None:
    gpu = plain_gpu(HOPPER, instances=[instance(HOPPER, 3, "1g.10gb", 6)])
    text = refused(plan_gpu(gpu, HOPPER, on(HOPPER, "7g.80gb"), Conditions(frozenset({3}))), "busy")
    assert "no place for the busy 1g.10gb at slot 6 (GPU instance 3); wait until" in text
    assert text.endswith("the nearest layout that fits is 1 x 1g.10gb, with the busy 1 x 1g.10gb, without 1 x 7g.80gb")
    allowed = planned(plan_gpu(gpu, HOPPER, on(HOPPER, "7g.80gb"), Conditions(frozenset({3}), allow_busy=True)))
    assert allowed.destroyed == (3,)


def test_where_busy_ones_may_go_the_idle_ones_go_first() -> None:
    gpu = plain_gpu(HOPPER, instances=[instance(HOPPER, 1, "1g.10gb", 0), instance(HOPPER, 2, "1g.10gb", 1, ())])
    # To destroy the instance without a compute instance would be a step less, and the other one is idle.
    demand = on(HOPPER, "1g.10gb")
    assert planned(plan_gpu(gpu, HOPPER, demand)).kept == (1,)
    assert planned(plan_gpu(gpu, HOPPER, demand, Conditions(frozenset({2}), allow_busy=True))).kept == (2,)


def test_busy_instances_keep_mig_on_and_a_busy_gpu_keeps_it_off() -> None:
    gpu = plain_gpu(HOPPER, instances=[instance(HOPPER, 3, "1g.10gb", 6)])
    assert "1g.10gb at slot 6 (GPU instance 3)" in refused(
        plan_gpu(gpu, HOPPER, MIG_OFF, Conditions(frozenset({3}))), "busy"
    )
    assert planned(plan_gpu(gpu, HOPPER, MIG_OFF, Conditions(frozenset({3}), allow_busy=True))).destroyed == (3,)
    whole = plain_gpu(HOPPER, current=False)
    assert "processes use the GPU" in refused(plan_gpu(whole, HOPPER, Demand(True), Conditions(busy=True)), "busy")
    assert planned(plan_gpu(whole, HOPPER, Demand(True), Conditions(busy=True, allow_busy=True))).changed
    assert not planned(plan_gpu(whole, HOPPER, MIG_OFF, Conditions(busy=True))).changed


def test_compute_instances_are_completed_or_rebuilt_and_the_gpu_instance_stays() -> None:
    empty = plain_gpu(HOPPER, instances=[instance(HOPPER, 1, "3g.40gb", 0, ())])
    assert [step.describe() for step in planned(plan_gpu(empty, HOPPER, on(HOPPER, "3g.40gb"))).steps] == [
        "Create a compute instance of 3 compute slices in GPU instance 1 (3g.40gb at slots 0-3)."
    ]
    split = plain_gpu(HOPPER, instances=[instance(HOPPER, 1, "3g.40gb", 0, (2, 1))])
    plan = planned(plan_gpu(split, HOPPER, on(HOPPER, "3g.40gb")))
    assert actions(plan) == ["destroy_compute_instance"] * 2 + ["create_compute_instance"]
    assert plan.kept == (1,)
    wanted = Demand(True, (Want(9, (2, 1)),))
    assert not planned(plan_gpu(split, HOPPER, wanted)).changed
    busy = Conditions(frozenset({1}))
    assert "around the busy 3g.40gb" in refused(plan_gpu(split, HOPPER, on(HOPPER, "3g.40gb"), busy), "busy")
    assert actions(planned(plan_gpu(empty, HOPPER, on(HOPPER, "3g.40gb"), busy))) == ["create_compute_instance"]


def test_splits_are_matched_so_that_the_fewest_compute_instances_change() -> None:
    gpu = plain_gpu(HOPPER, instances=[instance(HOPPER, 1, "3g.40gb", 0, (1, 1, 1)), instance(HOPPER, 2, "3g.40gb", 4)])
    demand = Demand(True, (Want(9, (1, 1, 1)), Want(9, (3,))))
    assert not planned(plan_gpu(gpu, HOPPER, demand)).changed
    more = Demand(True, (Want(9, (1, 1, 1)), Want(9, (2, 1))))
    plan = planned(plan_gpu(gpu, HOPPER, more))
    assert StrictGpu(HOPPER, gpu).run(plan.steps).demand() == more
    assert actions(plan) == ["destroy_compute_instance"] + ["create_compute_instance"] * 2


def test_new_splits_go_to_the_places_of_their_profile() -> None:
    demand = Demand(True, (Want(9, (1, 1, 1)), Want(9, (3,))))
    plan = planned(plan_gpu(plain_gpu(HOPPER), HOPPER, demand))
    assert StrictGpu(HOPPER, plain_gpu(HOPPER)).run(plan.steps).demand() == demand


def test_an_instance_of_an_unknown_profile_goes_unless_it_is_busy() -> None:
    odd = GpuInstance(4, 77, None, Placement(0, 2), compute_instances=(ComputeInstance(0, 99),))
    gpu = plain_gpu(HOPPER, instances=[odd])
    plan = planned(plan_gpu(gpu, HOPPER, on(HOPPER, "1g.10gb")))
    assert plan.steps[0].describe() == "Destroy compute instance 0 of GPU instance 4 (profile 77 at slots 0-1)."
    busy = plan_gpu(gpu, HOPPER, on(HOPPER, "1g.10gb"), Conditions(frozenset({4})))
    assert "no place for the busy profile 77" in refused(busy, "busy")
    assert isinstance(busy, Infeasible)
    assert busy.nearest is None


@pytest.mark.parametrize(
    ("ci", "slices"),
    [
        (ComputeInstance(0, 2), 3),
        (ComputeInstance(0, 7), 1),
        (ComputeInstance(0, 42), None),
        (ComputeInstance(0, 42, name="NVIDIA H100 80GB HBM3 MIG 2c.3g.40gb"), 2),
        (ComputeInstance(0, 42, name="NVIDIA H100 80GB HBM3 MIG 3g.40gb"), 3),
        (ComputeInstance(0, 42, name="something else"), None),
    ],
)
def test_compute_slices_of_profiles_known_and_new(ci: ComputeInstance, slices: int | None) -> None:
    assert compute_slices(ci) == slices


def test_an_unknown_compute_instance_makes_the_split_unknown() -> None:
    assert Held(1, 9, "3g.40gb", 0, 4, ((0, 1), (1, None))).split is None
    assert Held(1, 9, "3g.40gb", 0, 4, ((0, 1), (1, 2))).split == (2, 1)


@pytest.mark.parametrize(
    ("board", "names", "code", "text"),
    [
        (HOPPER, ["4g.40gb", "3g.40gb", "1g.10gb"], "compute_slices", "it needs 8 compute slices, the board has 7"),
        (HOPPER, ["3g.40gb", "3g.40gb", "1g.10gb"], "memory_slots", "it needs 9 memory slots, the board has 8"),
        (HOPPER, ["1g.10gb+me", "1g.10gb+me"], "media_extensions", "needs 2 sets of media extensions (+me)"),
        (A30, ["1g.6gb+me", "2g.12gb+me"], "media_extensions", "the board has 1"),
        (RTX, ["1g.24gb+me.all", "1g.24gb"], "engines", "it needs 5 NVDEC engines, the board has 4"),
    ],
)
def test_the_binding_constraint_is_named(board: Board, names: list[str], code: str, text: str) -> None:
    assert text in refused(plan_gpu(plain_gpu(board), board, on(board, *names)), code)


def test_placement_and_count_bind_where_a_driver_has_fewer_of_them() -> None:
    narrow = replace(
        HOPPER, profiles=tuple(replace(one, starts=(0,)) if one.id == 9 else one for one in HOPPER.profiles)
    )
    text = refused(plan_gpu(plain_gpu(HOPPER), narrow, on(HOPPER, "3g.40gb", "3g.40gb")), "placement")
    assert "every arrangement on the legal starts (3g.40gb: 0) overlaps" in text
    few = replace(HOPPER, profiles=tuple(replace(one, max_count=1) for one in HOPPER.profiles))
    text = refused(plan_gpu(plain_gpu(HOPPER), few, on(HOPPER, "1g.10gb", "1g.10gb")), "profile_count")
    assert "needs 2 instances of 1g.10gb, the board has 1" in text


def test_the_nearest_layout_keeps_most_instances_and_among_them_the_largest() -> None:
    plan = plan_gpu(plain_gpu(HOPPER), HOPPER, on(HOPPER, "4g.40gb", "3g.40gb", "1g.10gb"))
    assert isinstance(plan, Infeasible)
    assert plan.nearest is not None
    assert dict(plan.nearest.mig_devices) == {"4g.40gb": 1, "3g.40gb": 1}
    many = plan_gpu(plain_gpu(HOPPER), HOPPER, on(HOPPER, "7g.80gb", *["1g.10gb"] * 9))
    assert isinstance(many, Infeasible)
    assert many.nearest is not None
    assert dict(many.nearest.mig_devices) == {"1g.10gb": 7}
    assert dict(many.nearest.dropped) == {"7g.80gb": 1, "1g.10gb": 2}


def test_splits_have_names_in_messages() -> None:
    demand = Demand(True, (Want(9, (1, 1)), Want(9, (2, 1)), Want(0, (7,)), Want(19, ())))
    text = refused(plan_gpu(plain_gpu(HOPPER), HOPPER, demand), "compute_slices")
    assert "1 x 7g.80gb, 1 x 2c+1c.3g.40gb, 2 x 1c.3g.40gb, 1 x 0c.1g.10gb does not fit" in text


def test_nothing_fits_beside_everything() -> None:
    gpu = plain_gpu(HOPPER, instances=[instance(HOPPER, 0, "7g.80gb", 0)])
    text = refused(plan_gpu(gpu, HOPPER, on(HOPPER, "1g.10gb"), Conditions(frozenset({0}))), "busy")
    assert "with the busy 1 x 7g.80gb, without 1 x 1g.10gb" in text


@pytest.mark.parametrize(
    ("version", "fine"),
    [
        ("550.163.01", False),
        ("570.133.20", True),
        ("570.133.3", False),
        ("580.95.05", True),
        (None, True),
        ("570.133-x", False),
    ],
)
def test_a_driver_too_old_for_the_board_is_refused(version: str | None, fine: bool) -> None:
    plan = plan_gpu(plain_gpu(B200), B200, on(B200, "7g.180gb"), Conditions(driver_version=version))
    if fine:
        assert planned(plan)
    else:
        assert f"expected driver 570.133.20 or newer for MIG on B200 180GB, found {version}" in refused(
            plan, "driver_too_old"
        )
    assert planned(plan_gpu(plain_gpu(B200, False), B200, MIG_OFF, Conditions(driver_version=version)))


def test_a_gpu_that_cannot_do_mig_can_be_told_not_to() -> None:
    gpu = replace(plain_gpu(HOPPER), mig=MigState(False))
    assert not planned(plan_gpu(gpu, None, MIG_OFF)).changed
    assert "leave it out of the layout" in refused(plan_gpu(gpu, None, Demand(True)), "not_mig_capable")
    assert "vBIOS" in refused(plan_gpu(gpu, HOPPER, Demand(True)), "not_mig_capable")


def test_a_silent_driver_leaves_nothing_to_plan_from() -> None:
    gpu = replace(plain_gpu(HOPPER), mig=MigState(True))
    assert "get the driver working" in refused(plan_gpu(gpu, HOPPER, MIG_OFF), "state_unknown")
