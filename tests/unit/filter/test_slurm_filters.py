# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.filter import gres_lint as lint_file
from ansible_collections.hpc.compute.plugins.filter import slurm_nodes as nodes_file
from unit.slurm.machines import gpu, machine

_REPO = Path(__file__).resolve().parents[3]
_FILTERS = nodes_file.FilterModule().filters() | lint_file.FilterModule().filters()
_slurm_nodes, _change, _gres_lint = (_FILTERS[name] for name in ("slurm_nodes", "slurm_nodes_change", "gres_lint"))


def _documented(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((_REPO / f"plugins/filter/{name}.yml").read_text())
    return data


def test_nodes_of_hosts() -> None:
    result = _slurm_nodes({f"h{one}": {"node_line": f"NodeName=n{one} CPUs=8 Gres=gpu:a:1"} for one in (1, 2)})
    assert result["nodes_conf"].endswith("\nNodeName=n[1-2] CPUs=8 Gres=gpu:a:1\n")
    assert "GresTypes" in result["nodes_conf"]
    assert set(result) == set(_documented("slurm_nodes")["RETURN"]["_value"]["contains"])
    assert "GresTypes" not in _slurm_nodes({}, settings=False)["nodes_conf"]


def test_change() -> None:
    result = _change("NodeName=n1 Gres=gpu:2", "NodeName=n1 Gres=gpu:1")
    assert (result["action"], result["grown"], result["drain"]) == ("reconfigure", ["n1"], ["n1"])
    assert set(result) == set(_documented("slurm_nodes_change")["RETURN"]["_value"]["contains"])


def test_lint_takes_results_of_gpu_info() -> None:
    inventory = machine(gpu(0)).to_dict()
    for recorded in (inventory, {"inventory": inventory, "changed": False}):
        (finding,) = _gres_lint("NodeName=n1 Gres=gpu:quadro:1", "AutoDetect=nvml", {"n1": recorded})
        assert finding["code"] == "unknown_type"
    assert set(finding) == set(_documented("gres_lint")["RETURN"]["_value"]["contains"])
    assert _gres_lint("NodeName=n1") == []


def test_every_code_is_documented() -> None:
    text = " ".join(_documented("gres_lint")["RETURN"]["_value"]["contains"]["code"]["description"])
    documented = set(re.findall(r"V\((\w+)\)", text))
    tests = (_REPO / "tests/unit/slurm/test_lint.py").read_text()
    assert documented == {
        code for code in re.findall(r'"([a-z]+(?:_[a-z]+)+)"', tests) if code not in ("ambiguous_type",)
    } | {"ambiguous_type"}


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: _slurm_nodes([]), "slurm_nodes: expected a mapping"),
        (lambda: _slurm_nodes({"h1": "x"}), "h1: expected the mapping slurm_compute_result"),
        (lambda: _slurm_nodes({"h1": {}}), "h1: expected node_line"),
        (lambda: _change("", None), "slurm_nodes_change: expected the new and the old text"),
        (lambda: _change("NodeName=n[1-", ""), "slurm_nodes_change: expected a host list"),
        (lambda: _gres_lint(None), "gres_lint: expected the texts"),
        (lambda: _gres_lint("", "", []), "expected as inventories a mapping"),
        (lambda: _gres_lint("", "", {"n1": 1}), "expected a result of gpu_info"),
        (lambda: _gres_lint("", "", {"n1": {}}), "schema"),
        (lambda: _gres_lint("", "NodeName=n[1- Name=gpu"), "line 1: expected"),
    ],
)
def test_what_cannot_be_used_is_told(call: Any, reason: str) -> None:
    with pytest.raises(AnsibleFilterError, match=re.escape(reason)):
        call()
