# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters ``slurm_nodes`` and ``slurm_nodes_change``: a controller's files. The engine is in ``module_utils/slurm``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet import fleet_files, read_facts
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet_change import classify


def slurm_nodes(
    hosts: Any, *, memory_tolerance: float = 2.0, settings: bool = True, accounting: bool = False
) -> dict[str, Any]:
    """See ``slurm_nodes.yml`` for what goes in and comes out."""
    if not isinstance(hosts, Mapping):
        raise AnsibleFilterError(
            f"slurm_nodes: expected a mapping of host names to their slurm_compute_result, found {type(hosts).__name__}"
        )
    try:
        facts = [read_facts(str(host), _mapping(str(host), one)) for host, one in hosts.items()]
        files = fleet_files(facts, memory_tolerance=float(memory_tolerance), settings=settings, accounting=accounting)
    except ValueError as error:
        raise AnsibleFilterError(f"slurm_nodes: {error}") from error
    return asdict(files)


def slurm_nodes_change(new: Any, old: Any) -> dict[str, Any]:
    """See ``slurm_nodes_change.yml`` for what goes in and comes out."""
    if not isinstance(new, str) or not isinstance(old, str):
        raise AnsibleFilterError("slurm_nodes_change: expected the new and the old text of nodes.conf")
    try:
        change = classify(old, new)
    except ValueError as error:
        raise AnsibleFilterError(f"slurm_nodes_change: {error}") from error
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(change).items()}


def _mapping(host: str, facts: Any) -> Mapping[str, Any]:
    if not isinstance(facts, Mapping):
        raise ValueError(f"{host}: expected the mapping slurm_compute_result, found {facts!r}")
    return facts


class FilterModule:
    """Ansible's way of finding filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"slurm_nodes": slurm_nodes, "slurm_nodes_change": slurm_nodes_change}
