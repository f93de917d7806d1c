# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import GresMode
from ansible_collections.hpc.compute.plugins.module_utils.slurm.stored import STORED, Stored, StoredError, read_stored

_MODE = GresMode("off", {"*_1g.5gb": "a100-1g.5gb"}, {"shard": {"*": 8}})


def _write(root: Path, text: str) -> None:
    (root / STORED).parent.mkdir(parents=True)
    (root / STORED).write_text(text)


def test_round_trip(tmp_path: Path) -> None:
    assert read_stored(tmp_path) is None
    stored = Stored(_MODE, "/etc/hpc-compute/gres.conf", "gpu:a100-1g.5gb:7", True)
    _write(tmp_path, stored.text())
    assert read_stored(tmp_path) == stored


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"autodetect": "rsmi"}, "expected autodetect to be nvml or off, found 'rsmi'"),
        ({"types": {"*": 1}}, "expected names in types"),
        ({"types": []}, "expected names in types"),
        ({"shared": []}, "expected names in types and numbers in shared"),
        ({"shared": {"shard": {"*": "8"}}}, "expected names in types and numbers in shared"),
        ({"path": None}, "expected texts as path and gres"),
        ({"gres": 1}, "expected texts as path and gres"),
        ({"more": 1}, "expected the keys autodetect, types"),
    ],
)
def test_what_means_nothing_is_told(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    _write(tmp_path, json.dumps({**json.loads(Stored(_MODE).text()), **change}))
    with pytest.raises(StoredError, match=reason):
        read_stored(tmp_path)


def test_no_json_is_told(tmp_path: Path) -> None:
    _write(tmp_path, "autodetect: off")
    with pytest.raises(StoredError, match=r"expected JSON in .*slurm-gres\.json"):
        read_stored(tmp_path)
