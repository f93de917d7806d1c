#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of planning a controller's files; the work is done in module_utils/slurm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_fleet_plan
short_description: Tell what a Slurm controller's files about its nodes should be, and what may change now
version_added: 0.2.0
description:
  - Runs on a controller. Makes C(nodes.conf) and C(gres.conf) from the facts of all nodes, as the filter
    P(hpc.compute.slurm_nodes#filter) does, and compares them with the files that are there and with what the controller
    knows.
  - Jobs on a node are killed when the controller is told of another number of GPUs, or of other processors. The line of
    a node that is in service therefore stays as it is, which RV(held) tells with the reason.
  - Memory that a node's line has is kept where it is as good as what the node finds now, and lines in another order
    count as the same, so that only what is really another changes the files.
  - Refuses what Slurm would refuse or misread (P(hpc.compute.gres_lint#filter)), and files that somebody else wrote.
  - Changes nothing; M(hpc.compute.slurm_fleet_files) installs what it returns.
author:
  - The hpc.compute authors
options:
  nodes:
    description: A mapping of host names to the C(slurm_compute_result) of each.
    type: dict
    required: true
  slurm_conf:
    description: The controller's C(slurm.conf). C(gres.conf) is beside it.
    type: path
    default: /etc/slurm/slurm.conf
  nodes_conf:
    description: The file for the nodes' lines, which O(slurm_conf) includes.
    type: path
    default: /etc/slurm/nodes.conf
  include:
    description: Whether a line C(Include) is added to O(slurm_conf) where it has none. Otherwise that is refused.
    type: bool
    default: false
  replace:
    description: Whether a C(nodes.conf) or C(gres.conf) of somebody else is replaced. Otherwise that is refused.
    type: bool
    default: false
  remove:
    description: Whether nodes that are in C(nodes.conf) and not in O(nodes) are taken out. Otherwise their lines stay.
    type: bool
    default: false
  memory_tolerance:
    description: By how much, in percent, C(RealMemory) of nodes that share a line may differ.
    type: float
    default: 2.0
  controller_timeout:
    description: For how many seconds a controller that does not answer, as while it restarts, is asked again.
    type: float
    default: 60
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: Returns no difference. M(hpc.compute.slurm_fleet_files) does.
    support: none
  platform:
    description: Target operating systems.
    support: full
    platforms: posix
seealso:
  - module: hpc.compute.slurm_fleet_files
  - plugin: hpc.compute.slurm_nodes
    plugin_type: filter
"""

EXAMPLES = r"""
- name: See what the controller should be told
  hpc.compute.slurm_fleet_plan:
    nodes: "{{ dict(hosts | zip(hosts | map('extract', hostvars, 'slurm_compute_result'))) }}"
  vars:
    hosts: "{{ groups['compute'] }}"
  register: plan
"""

RETURN = r"""
files:
  description: The files that are to be there, for O(hpc.compute.slurm_fleet_files#module:files).
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Where it is.
      type: str
      sample: /etc/slurm/nodes.conf
    content:
      description: Its new text.
      type: str
action:
  description:
    - What makes the controller take them over. V(none) where it has, and while no controller of the cluster runs.
  returned: success
  type: str
  sample: reconfigure
running:
  description: Whether a controller of the cluster answers, or is just starting.
  returned: success
  type: bool
added:
  description: Nodes that are new.
  returned: success
  type: list
  elements: str
removed:
  description: Nodes that are taken out.
  returned: success
  type: list
  elements: str
held:
  description: A sentence for the nodes that keep their line as they are in service, with what to do.
  returned: success
  type: list
  elements: str
notes:
  description: What else there is to know, such as warnings of the linter.
  returned: success
  type: list
  elements: str
"""

from collections.abc import Sequence
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet import read_facts
from ansible_collections.hpc.compute.plugins.module_utils.slurm.fleet_controller import (
    Paths,
    Wishes,
    plan_controller,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.publish import PublishError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.scontrol import Scontrol, ScontrolError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.takeover import Service


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "nodes": {"type": "dict", "required": True},
            "slurm_conf": {"type": "path", "default": "/etc/slurm/slurm.conf"},
            "nodes_conf": {"type": "path", "default": "/etc/slurm/nodes.conf"},
            "include": {"type": "bool", "default": False},
            "replace": {"type": "bool", "default": False},
            "remove": {"type": "bool", "default": False},
            "memory_tolerance": {"type": "float", "default": 2.0},
            "controller_timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    params = module.params

    def run(command: Sequence[str]) -> Completed:
        return Completed(*module.run_command(list(command)))

    wishes = Wishes(*(params[key] for key in ("include", "replace", "remove", "memory_tolerance")))
    try:
        facts = [read_facts(str(host), one if isinstance(one, dict) else {}) for host, one in params["nodes"].items()]
        found = plan_controller(
            Paths(Path(params["slurm_conf"]), Path(params["nodes_conf"])),
            facts,
            Service(run, Scontrol(run, params["controller_timeout"])),
            wishes,
        )
    except (ValueError, PublishError, ScontrolError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        files=[{"path": str(path), "content": text} for path, text in found.files.items()],
        action=found.action,
        running=found.running,
        added=list(found.plan.change.added),
        removed=list(found.plan.change.removed),
        held=found.held,
        notes=found.notes,
    )


if __name__ == "__main__":
    main()
