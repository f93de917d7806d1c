# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans lose no more than they must: checked against brute force, and carried out on a strict GPU.

``HPC_COMPUTE_PLAN_PAIRS=2000`` sets how many random pairs of state and layout each board gets.
"""

from __future__ import annotations

import os
import random

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.mig.catalog import Board, boards
from ansible_collections.hpc.compute.plugins.module_utils.mig.demand import Demand
from ansible_collections.hpc.compute.plugins.module_utils.mig.explain import Infeasible
from ansible_collections.hpc.compute.plugins.module_utils.mig.plan import Conditions, GpuPlan, plan_gpu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.mig.plan_oracle import StrictGpu, best, most_that_fit, random_state, random_wants

PAIRS = int(os.environ.get("HPC_COMPUTE_PLAN_PAIRS", "150"))
BOARDS = pytest.mark.parametrize("board", boards(), ids=lambda board: board.key)


def check(board: Board, rng: random.Random) -> str:
    """One random pair of state and layout, sometimes with busy instances."""
    gpu = random_state(board, rng)
    wanted = random_wants(board, gpu, rng)
    share = rng.choice([0.0, 0.0, 0.3])
    busy = frozenset(one.id for one in gpu.gpu_instances if rng.random() < share)
    plan = plan_gpu(gpu, board, Demand(True, wanted), Conditions(busy))
    expected = best(board, gpu, wanted, busy)
    if isinstance(plan, Infeasible):
        assert expected is None, (gpu, wanted, busy)
        assert plan.nearest is not None
        if not busy and all(len(want.split) == 1 for want in wanted):
            dropped = sum(count for _, count in plan.nearest.dropped)
            assert len(wanted) - dropped == most_that_fit(board, wanted)
        return plan.code
    assert expected == (len(plan.destroyed), len(plan.steps)), (gpu, wanted, busy)
    after = StrictGpu(board, gpu, busy).run(plan.steps)
    assert after.demand() == plan.demand == Demand(True, wanted)
    placed = sorted((one.want.profile_id, one.placement.start) for one in plan.instances)
    assert sorted(after.instances.values()) == placed
    assert {*plan.kept, *plan.destroyed} == {one.id for one in gpu.gpu_instances}
    assert busy <= set(plan.kept)
    return "feasible"


@BOARDS
def test_random_pairs_lose_the_brute_force_minimum(board: Board) -> None:
    rng = random.Random(board.key)  # noqa: S311  # test data that can be had again
    seen = [check(board, rng) for _ in range(PAIRS)]
    # The pairs mean something only if they are of all kinds.
    assert seen.count("feasible") > PAIRS / 4
    assert len(set(seen)) > 2


@BOARDS
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_a_plan_carried_out_leaves_nothing_to_do(board: Board, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    gpu = random_state(board, rng)
    first = plan_gpu(gpu, board, Demand(True, random_wants(board, gpu, rng)))
    if isinstance(first, GpuPlan):
        assert first == plan_gpu(gpu, board, first.demand)
        after = StrictGpu(board, gpu).run(first.steps).as_gpu(gpu)
        second = plan_gpu(after, board, first.demand)
        assert isinstance(second, GpuPlan)
        assert not second.changed
        assert set(second.kept) == {one.id for one in after.gpu_instances}
