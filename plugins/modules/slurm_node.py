#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of a node's state in Slurm; the work is done in module_utils/slurm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_node
short_description: Take a node out of Slurm's service, wait for its jobs, and give it back
version_added: 0.1.0
description:
  - Reads, drains and resumes a node through C(scontrol), and waits for its jobs to end or its C(slurmd) to register.
  - What it drains gets a reason that begins with C(hpc.compute:), and only a node with such a reason is resumed or
    given another one. A node that somebody else drained stays as it is, which RV(note) says.
  - Running jobs are never touched.
author:
  - The hpc.compute authors
options:
  name:
    description: The node's name in Slurm.
    type: str
    required: true
  state:
    description: V(drained) takes no new jobs, V(resumed) takes them again, V(read) changes nothing.
    type: str
    choices: [read, drained, resumed]
    default: read
  reason:
    description: Why it is drained, without the mark. Required for O(state=drained).
    type: str
  wait_for:
    description:
      - What to wait for, after the state was set. V(jobs) waits until no job holds a part of the node, suspended and
        completing ones included. V(registered) waits until the controller has heard from the node's C(slurmd) and does
        not refuse what it has.
      - Not waited for in check mode.
    type: str
    choices: [nothing, jobs, registered]
    default: nothing
  gres:
    description: With O(wait_for=registered), the C(Gres) that the controller must have for the node, in any order.
    type: str
  timeout:
    description: How many seconds to wait for O(wait_for).
    type: float
    default: 3600
  controller_timeout:
    description: For how many seconds a controller that does not answer, as while it restarts, is asked again.
    type: float
    default: 60
attributes:
  check_mode:
    description: Tells what would be changed. Jobs are listed and not waited for.
    support: full
  diff_mode:
    description: Shows state and reason.
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
notes:
  - Works on the controller and on every node, as root or as Slurm's own user.
  - Slurm keeps a reason's text after a resume; it means something only while the node is drained.
seealso:
  - module: hpc.compute.slurm_node_gres
"""

EXAMPLES = r"""
- name: Let the node run empty, a day at most
  hpc.compute.slurm_node:
    name: gpu07
    state: drained
    reason: new kernel
    wait_for: jobs
    timeout: 86400
  delegate_to: slurm-controller

- name: Give it back, unless somebody else wants it out of service
  hpc.compute.slurm_node:
    name: gpu07
    state: resumed
"""

RETURN = r"""
name:
  description: The node.
  returned: always
  type: str
  sample: gpu07
states:
  description: Slurm's words for its state, sorted.
  returned: when Slurm answered
  type: list
  elements: str
  sample: [DRAIN, IDLE]
reason:
  description: The reason that Slurm keeps, also one of long ago.
  returned: when Slurm answered
  type: str
gres:
  description: What the controller has as the node's C(Gres), without sockets.
  returned: when Slurm answered
  type: str
  sample: gpu:nvidia_a30_1g.6gb:4
drained:
  description: Whether it takes no new jobs because somebody said so.
  returned: when Slurm answered
  type: bool
ours:
  description: Whether this collection drained it.
  returned: when Slurm answered
  type: bool
registered:
  description: Whether the controller has heard from its slurmd and accepts what it has.
  returned: when Slurm answered
  type: bool
note:
  description: Why the state was left as it is, empty otherwise.
  returned: when Slurm answered
  type: str
jobs:
  description: Jobs that hold a part of the node.
  returned: when Slurm answered
  type: list
  elements: dict
  contains:
    number:
      description: As C(squeue) prints it.
      type: str
      sample: "12_3"
    name:
      description: The job's name.
      type: str
    user:
      description: Whose it is.
      type: str
    state:
      description: Slurm's word for its state.
      type: str
      sample: RUNNING
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import GresSyntaxError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.scontrol import Scontrol, ScontrolError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.service import (
    Change,
    WaitError,
    drain,
    resume,
    wait_for_jobs,
    wait_until_registered,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.states import Node


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["read", "drained", "resumed"], "default": "read"},
            "reason": {"type": "str"},
            "wait_for": {"type": "str", "choices": ["nothing", "jobs", "registered"], "default": "nothing"},
            "gres": {"type": "str"},
            "timeout": {"type": "float", "default": 3600},
            "controller_timeout": {"type": "float", "default": 60},
        },
        required_if=[("state", "drained", ["reason"])],
        supports_check_mode=True,
    )
    slurm = Scontrol(lambda command: Completed(*module.run_command(list(command))), module.params["controller_timeout"])
    result: dict[str, Any] = {"name": module.params["name"], "changed": False}
    try:
        change = _set_state(module, slurm)
        result |= _told(change)
        if not module.check_mode:
            _wait(module, slurm)
            # What was waited for may have changed it.
            result |= _seen(change.after if module.params["wait_for"] == "nothing" else slurm.node(change.after.name))
        result["jobs"] = [asdict(job) for job in slurm.jobs(change.after.name)]
    except WaitError as error:
        module.fail_json(msg=str(error), **{**result, "jobs": [asdict(job) for job in error.jobs]})
    except (ScontrolError, GresSyntaxError) as error:
        module.fail_json(msg=str(error), **result)
    module.exit_json(**result)


def _set_state(module: AnsibleModule, slurm: Scontrol) -> Change:
    name = module.params["name"]
    if module.params["state"] == "drained":
        return drain(slurm, name, module.params["reason"], module.check_mode)
    if module.params["state"] == "resumed":
        return resume(slurm, name, module.check_mode)
    node = slurm.node(name)
    return Change(node, node)


def _wait(module: AnsibleModule, slurm: Scontrol) -> None:
    name, seconds = module.params["name"], module.params["timeout"]
    if module.params["wait_for"] == "jobs":
        wait_for_jobs(slurm, name, seconds)
    elif module.params["wait_for"] == "registered":
        wait_until_registered(slurm, name, seconds, module.params["gres"])


def _told(change: Change) -> dict[str, Any]:
    # What differs by itself, such as a node that begins to answer, is not this module's change.
    before, after = _decided(change.before), _decided(change.after)
    return {
        **_seen(change.after),
        "changed": before != after,
        "note": change.note,
        "diff": {"before": before, "after": after},
    }


def _seen(node: Node) -> dict[str, Any]:
    return {
        "states": sorted(node.states),
        "reason": node.reason,
        "gres": node.gres,
        "drained": node.drained,
        "ours": node.ours,
        "registered": node.registered,
    }


def _decided(node: Node) -> dict[str, Any]:
    return {"drained": node.drained, "reason": node.reason if node.drained else ""}


if __name__ == "__main__":
    main()
