# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role makes of the controller's answer about the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import REPO, Play

ROLE = REPO / "roles/slurm_compute"
WHOLE = "gpu:nvidia_h100_80gb_hbm3:1"
SLICES = "gpu:nvidia_h100_80gb_hbm3_1g.10gb:7"


def answer(state: str, gres: str) -> dict[str, Any]:
    """``scontrol --oneliner show node`` as Slurm 24.11 prints it, shortened."""
    return {
        "rc": 0,
        "stdout": f"NodeName=n1 Arch=x86_64 Gres={gres} NodeAddr=n1 State={state} ThreadsPerCore=1 Reason=hm",
        "stderr_lines": [],
    }


CASES = {
    "same": (answer("IDLE", f"{WHOLE}(S:0-1),{SLICES}(S:0)"), f"{SLICES},{WHOLE}", "True False", None),
    "other": (answer("IDLE", WHOLE), SLICES, "True True", f"has Gres={WHOLE}, the node has Gres={SLICES}."),
    "offers-none": (answer("MIXED", "(null)"), SLICES, "True True", "has Gres=, the node"),
    "none-at-all": (answer("IDLE", "(null)"), "", "True False", None),
    "shares": (
        answer("IDLE", f"{WHOLE}(S:0),shard:h100:4(S:0),shard:l40s:4,mps:l40s:0"),
        f"{WHOLE},shard:8",
        "True False",
        None,
    ),
    "fewer-shares": (answer("IDLE", f"{WHOLE},mps:h100:50"), f"{WHOLE},mps:100", "True True", ",mps:50, the node"),
    "drained-already": (answer("IDLE+DRAIN", WHOLE), SLICES, "True True", "scontrol reconfigure"),
    "invalid": (answer("IDLE+INVAL_REG+INVAL", WHOLE), SLICES, "False False", "does not have this node in service"),
    "unknown": ({"rc": 1, "stdout": "", "stderr_lines": ["not found"]}, SLICES, "False False", "does not know this"),
    "no-controller": ({"skipped": True, "changed": False}, SLICES, "False False", "No controller answers"),
}


@pytest.fixture(scope="module")
def variables() -> list[str]:
    return sorted(str(path) for path in (ROLE / "vars/main").glob("*.yml"))


def test_a_controller_that_offers_other_gpus_is_no_success(play: Play, variables: list[str], tmp_path: Path) -> None:
    hosts = {
        name: {
            "__slurm_compute_registration": registration,
            "slurm_compute_result": {"node_name": "n1", "node_line": f"NodeName=n1 Gres={gres}", "gres": gres},
        }
        for name, (registration, gres, _, _) in CASES.items()
    }
    parts = ("registered", "offers_other_gres", "registration_message")
    said = " ".join(f"{{{{ __slurm_compute_{part} }}}}" for part in parts)
    tasks = [
        *({"ansible.builtin.include_vars": {"file": path}} for path in [str(ROLE / "defaults/main.yml"), *variables]),
        {"ansible.builtin.copy": {"content": said, "dest": f"{tmp_path}/{{{{ inventory_hostname }}}}"}},
    ]
    output = play(hosts, tasks)
    for name, (_, _, judged, words) in CASES.items():
        told = (tmp_path / name).read_text() if (tmp_path / name).exists() else output
        assert told.startswith(judged), f"{name}: {told}"
        assert words is None or words in told, (name, told)
