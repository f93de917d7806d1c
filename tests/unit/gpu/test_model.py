# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A recorded inventory is as good as a live one, and a wrong record is refused by name."""

from __future__ import annotations

import json

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import (
    ComputeInstance,
    Gpu,
    GpuInstance,
    Inventory,
    MigState,
    Placement,
    Problem,
)

INVENTORY = Inventory(
    gpus=(
        Gpu(
            pci_address="0000:1b:00.0",
            vendor_id="10de",
            device_id="2330",
            nvlink_peers={"0000:43:00.0": 18},
            mig=MigState(True, True, True),
            gpu_instances=(
                GpuInstance(
                    1,
                    9,
                    "3g.40gb",
                    Placement(4, 4),
                    40448,
                    (
                        ComputeInstance(
                            0, 2, "MIG-a", "MIG 3g.40gb", 0, ("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap12")
                        ),
                    ),
                ),
            ),
            device_files=("/dev/nvidia0",),
        ),
    ),
    nvswitch_count=4,
    driver_version="550.163.01",
    nvml_version="12.550.163.01",
    problems=(Problem("gpu_lost", "gone", "0000:1b:00.0"),),
)


def test_an_inventory_survives_json() -> None:
    data = INVENTORY.to_dict()
    text = json.dumps(data)
    assert json.loads(text) == data
    assert Inventory.from_dict(json.loads(text)) == INVENTORY


@pytest.mark.parametrize("schema", [None, 0, 2, "1"])
def test_another_schema_is_refused(schema: object) -> None:
    with pytest.raises(ValueError, match=f"expected a GPU inventory of schema 1, found schema {schema!r}"):
        Inventory.from_dict({**INVENTORY.to_dict(), "schema": schema})


def test_a_missing_and_an_unknown_field_are_named() -> None:
    data = INVENTORY.to_dict()
    del data["nvswitch_count"]
    with pytest.raises(ValueError, match="nvswitch_count"):
        Inventory.from_dict(data)
    data = INVENTORY.to_dict()
    data["gpus"][0]["colour"] = "green"
    with pytest.raises(ValueError, match="colour"):
        Inventory.from_dict(data)
