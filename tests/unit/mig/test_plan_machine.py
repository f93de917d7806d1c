# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of whole machines, and how they are told and drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Gpu, Inventory, MigState
from ansible_collections.hpc.compute.plugins.module_utils.mig.explain import Infeasible
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import parse_entries
from ansible_collections.hpc.compute.plugins.module_utils.mig.machine import MachinePlan, board_of, plan_machine
from ansible_collections.hpc.compute.plugins.module_utils.mig.picture import draw_plan
from ansible_collections.hpc.compute.plugins.module_utils.mig.plan import Conditions, GpuPlan
from ansible_collections.hpc.compute.plugins.module_utils.mig.report import report
from unit.mig.plan_oracle import board_named, instance, plain_gpu

H100 = board_named("h100_80")
CUT = replace(
    plain_gpu(H100, instances=[instance(H100, 2, "1g.10gb", 6), instance(H100, 1, "3g.40gb", 0, (2, 1))]), index=0
)
WHOLE = replace(plain_gpu(H100, False), pci_address="0000:3b:00.0", index=1, name="NVIDIA H100 80GB HBM3")
T4 = Gpu("0000:5e:00.0", "10de", "1eb8", index=2, name="Tesla T4")
NODE = Inventory((CUT, WHOLE, T4), driver_version="550.163.01")


def plan(*entries: dict[str, Any], node: Inventory = NODE, **options: Any) -> MachinePlan:
    ready = [{"devices": "all", "mig-enabled": True, "mig-devices": {}} | entry for entry in entries]
    return plan_machine(node, parse_entries(ready), **options)


def test_each_gpu_gets_its_own_outcome_and_the_rest_is_left_alone() -> None:
    found = plan({"devices": [0], "mig-devices": {"1g.10gb": 1, "1c.3g.40gb": 3}}, {"devices": [2]})
    cut, whole, other = found.outcomes
    assert isinstance(cut.result, GpuPlan)
    assert cut.result.kept == (1, 2)
    assert whole.result is None
    assert whole.entry is None
    assert isinstance(other.result, Infeasible)
    assert not found.feasible
    assert found.changed


def test_a_machine_without_gpus_is_feasible_and_unchanged() -> None:
    found = plan({}, node=Inventory())
    assert found.feasible
    assert not found.changed
    assert report(found)["drawing"] == "no NVIDIA GPU in this machine"


def test_missing_devices_make_a_plan_infeasible_unless_allowed() -> None:
    assert not plan({"devices": [9]}).feasible
    assert plan({"devices": [9]}, allow_missing=True).feasible
    data = report(plan({"devices": [9]}))
    assert data["problems"][0]["code"] == "device_missing"
    assert data["problems"][0]["pci_address"] is None


def test_busy_instances_belong_to_their_gpu() -> None:
    busy = {CUT.pci_address: Conditions(frozenset({1}))}
    found = plan({"devices": [0, 1], "mig-devices": {"1g.10gb": 1}}, conditions=busy)
    results = [one.result for one in found.outcomes]
    assert isinstance(results[0], Infeasible)
    assert results[0].code == "busy"
    assert isinstance(results[1], GpuPlan)


def test_the_first_reason_is_the_one_that_is_told() -> None:
    b200 = board_named("b200")
    unknown = {"mig-devices": {"1g.10gb": 1}}
    old = plan(unknown, node=Inventory((plain_gpu(b200),), driver_version="550.163.01")).outcomes[0].result
    assert isinstance(old, Infeasible)
    assert old.code == "driver_too_old"
    new = plan(unknown, node=Inventory((plain_gpu(b200),), driver_version="580.95.05")).outcomes[0].result
    assert isinstance(new, Infeasible)
    assert new.code == "profile_unknown"
    busy = {CUT.pci_address: Conditions(busy=True)}
    off = Inventory((replace(CUT, mig=MigState(True, False, False), gpu_instances=()),))
    name = plan({"mig-devices": {"1g.5gb": 1}}, node=off, conditions=busy).outcomes[0].result
    assert isinstance(name, Infeasible)
    assert name.code == "profile_unknown"


def test_a_board_is_known_by_its_id_or_by_what_was_recorded() -> None:
    assert board_of(WHOLE) == H100
    assert board_of(replace(WHOLE, device_id="ffff")) == H100
    assert board_of(replace(WHOLE, device_id="ffff", board=None)) is None
    nobody = replace(WHOLE, device_id="ffff", board=None)
    result = plan({"mig-devices": {"1g": 1}}, node=Inventory((nobody,))).outcomes[0].result
    assert isinstance(result, Infeasible)
    assert result.code == "board_unknown"
    off = plan({"mig-enabled": False, "mig-devices": {}}, node=Inventory((nobody,))).outcomes[0].result
    assert off == GpuPlan(off.demand) if isinstance(off, GpuPlan) else False


def test_a_report_is_plain_data_and_complete() -> None:
    data = report(plan({"devices": [0], "mig-devices": {"1g.10gb": 2}}, {"devices": [2]}))
    assert json.loads(json.dumps(data)) == data
    assert (data["feasible"], data["changed"], data["reset_required"]) == (False, True, False)
    cut, whole, other = data["gpus"]
    assert cut["entry"] == "[0]"
    assert cut["instances"] == [
        {"profile": "1g.10gb", "profile_id": 19, "start": 5, "size": 1, "compute_instances": [1], "gpu_instance": None},
        {"profile": "1g.10gb", "profile_id": 19, "start": 6, "size": 1, "compute_instances": [1], "gpu_instance": 2},
    ]
    assert (cut["kept"], cut["destroyed"], cut["mig_enabled"]) == ([2], [1], True)
    assert [step["action"] for step in cut["steps"]] == [
        "destroy_compute_instance",
        "destroy_compute_instance",
        "destroy_gpu_instance",
        "create_gpu_instance",
        "create_compute_instance",
    ]
    assert (whole["entry"], whole["feasible"], whole["mig_enabled"], whole["steps"]) == (None, True, None, [])
    assert other["problem"] == data["problems"][0]
    assert other["problem"]["code"] == "not_mig_capable"
    assert other["board"] is None
    assert "drawing" not in report(plan({}), drawing=False)


def test_a_reset_on_one_gpu_is_one_for_the_machine() -> None:
    a100 = board_named("a100_40")
    assert report(plan({}, node=Inventory((plain_gpu(a100, False),))))["reset_required"]


def test_the_nearest_layout_is_in_the_report() -> None:
    data = report(plan({"devices": [1], "mig-devices": {"4g.40gb": 1, "3g.47gb": 2}}))
    assert data["problems"][0]["nearest"] == {
        "mig_devices": {"4g.40gb": 1, "3g.40gb": 1},
        "dropped": {"3g.40gb": 1},
        "added": {},
        "changed": {"3g.47gb": "3g.40gb"},
    }


def test_the_drawing_shows_what_is_new_kept_and_left() -> None:
    text = draw_plan(plan({"devices": [0], "mig-devices": {"1g.10gb": 2, "1c.2g.20gb": 2}}), 73, ascii_only=True)
    lines = text.splitlines()
    assert lines[0] == "GPU 0  0000:17:00.0  H100/H800 80GB (SXM5, PCIe)  MIG, 4 slices"
    assert "1g.10gb" in lines[2]
    assert "2g.20gb" in lines[2]
    assert "1c new" in lines[3]
    assert lines[3].count("new") == 2
    assert lines[3].count("kept") == 1
    assert "left alone" in text
    assert lines[6] == "GPU 1  0000:3b:00.0  NVIDIA H100 80GB HBM3"


def test_the_drawing_of_what_cannot_be_made_is_the_present() -> None:
    text = draw_plan(plan({"devices": [0], "mig-devices": {"7g.80gb": 2}}, {"devices": [1], "mig-enabled": False}), 100)
    first, second, _ = text.split("GPU ")[1:]
    assert "MIG, 3 slices" in first
    assert first.count("not changed: see problems") == 2
    assert "whole, no change" in second
    switched = draw_plan(plan({"devices": [0], "mig-enabled": False}), 100)
    assert "whole" in switched.split("GPU ")[1]
    assert "no change" not in switched.split("GPU ")[1]


@pytest.mark.parametrize("entry", [{"devices": "all"}, {"devices": "*T4*"}])
def test_gpus_without_mig_are_left_alone_by_wide_names(entry: dict[str, Any]) -> None:
    assert plan(entry).outcomes[2].result is None
