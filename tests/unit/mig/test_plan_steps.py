# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps read well and survive being stored."""

from __future__ import annotations

import json

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Placement
from ansible_collections.hpc.compute.plugins.module_utils.mig.steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    ResetGpu,
    SetMode,
    Step,
    step_from_dict,
    step_to_dict,
)

STEPS: list[tuple[Step, str]] = [
    (SetMode(True), "Switch MIG mode on."),
    (SetMode(False), "Switch MIG mode off."),
    (ResetGpu(True), "Reset the GPU (or reboot), so that MIG mode is on."),
    (ResetGpu(False), "Reset the GPU (or reboot), so that MIG mode is off."),
    (
        DestroyComputeInstance(3, 0, "1g.10gb", Placement(6, 1)),
        "Destroy compute instance 0 of GPU instance 3 (1g.10gb at slot 6).",
    ),
    (DestroyGpuInstance(3, 9, "3g.40gb", Placement(4, 4)), "Destroy GPU instance 3 (3g.40gb at slots 4-7)."),
    (CreateGpuInstance(9, "3g.40gb", Placement(4, 4)), "Create a GPU instance 3g.40gb at slots 4-7."),
    (
        CreateComputeInstance(3, "3g.40gb", Placement(4, 4)),
        "Create a compute instance of 3 compute slices in that GPU instance (3g.40gb at slots 4-7).",
    ),
    (
        CreateComputeInstance(1, "1g.10gb", Placement(0, 1), gi_id=5),
        "Create a compute instance of 1 compute slice in GPU instance 5 (1g.10gb at slot 0).",
    ),
]


@pytest.mark.parametrize(("step", "text"), STEPS)
def test_a_step_is_one_sentence_and_comes_back_from_disk(step: Step, text: str) -> None:
    assert step.describe() == text
    stored = json.loads(json.dumps(step_to_dict(step)))
    assert stored["text"] == text
    assert step_from_dict(stored) == step


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({}, "expected a step with one of the actions set_mode, .*, found None"),
        ({"action": "explode"}, "found 'explode'"),
        ({"action": "set_mode"}, "no step 'set_mode'.*enabled"),
        ({"action": "set_mode", "enabled": True, "speed": 1}, "no step 'set_mode'.*speed"),
        ({"action": "create_gpu_instance", "profile_id": 1, "profile": "x", "placement": {"start": 1}}, "size"),
    ],
)
def test_what_is_no_step_is_refused(data: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        step_from_dict(data)
