#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of publishing what nodes offer; the work is done in module_utils/slurm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_node_gres
short_description: Change what single nodes offer in slurm.conf, and have the controller take it over
version_added: 0.1.0
description:
  - Replaces C(Gres) in the C(NodeName) lines of some nodes, in C(slurm.conf) or in the file it includes that has the
    line, and leaves everything else as it is. A line that several nodes share is divided where only some change.
  - Optionally has the controller read it with C(scontrol reconfigure). When the controller refuses it, the old files
    come back and the controller goes on with the old configuration.
author:
  - The hpc.compute authors
options:
  path:
    description: The C(slurm.conf).
    type: path
    default: /etc/slurm/slurm.conf
  nodes:
    description: For each node, by its name in Slurm, its whole C(Gres); empty for none.
    type: dict
    required: true
  common_with:
    description:
      - For some of these nodes, another C(Gres). Published is then what both have, of each type the smaller count.
        While a node changes from one to the other it has at least that, so the controller never finds less than it
        expects.
    type: dict
    default: {}
  reconfigure:
    description:
      - Run C(scontrol reconfigure) when a file was changed, now or by a run that was killed before it came to that. For
        the machine on which C(slurmctld) runs.
    type: bool
    default: false
  controller_timeout:
    description: For how many seconds a controller that does not answer, as while it restarts, is asked again.
    type: float
    default: 60
attributes:
  check_mode:
    description: Tells what would be changed.
    support: full
  diff_mode:
    description: Shows the difference of each file.
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
notes:
  - In Slurm 24.11 C(scontrol reconfigure) starts the controller and every slurmd that answers anew, in place. Running
    jobs go on. A node whose devices are just being changed should have its slurmd stopped.
seealso:
  - module: hpc.compute.slurm_node
  - module: hpc.compute.slurm_gres
"""

EXAMPLES = r"""
- name: Tell the controller what the node has now
  hpc.compute.slurm_node_gres:
    nodes:
      gpu07: gpu:nvidia_a30_1g.6gb:4
    reconfigure: true
  delegate_to: slurm-controller
"""

RETURN = r"""
before:
  description: C(Gres) of each node as it was, in the form of O(nodes).
  returned: success
  type: dict
  sample: {gpu07: "gpu:nvidia_a30:1"}
files:
  description: Files that were changed.
  returned: success
  type: list
  elements: str
  sample: [/etc/slurm/slurm.conf]
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import Completed
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres import GresSyntaxError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.publish import PublishError, publish
from ansible_collections.hpc.compute.plugins.module_utils.slurm.scontrol import Scontrol, ScontrolError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.states import common_gres


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/slurm/slurm.conf"},
            "nodes": {"type": "dict", "required": True},
            "common_with": {"type": "dict", "default": {}},
            "reconfigure": {"type": "bool", "default": False},
            "controller_timeout": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    slurm = Scontrol(lambda command: Completed(*module.run_command(list(command))), module.params["controller_timeout"])
    others = module.params["common_with"]
    try:
        wanted = {
            name: common_gres(gres, others[name]) if name in others else gres
            for name, gres in ((str(name), str(gres or "")) for name, gres in module.params["nodes"].items())
        }
        published = publish(
            Path(module.params["path"]),
            wanted,
            slurm.reconfigure if module.params["reconfigure"] else None,
            module.check_mode,
        )
    except (PublishError, GresSyntaxError) as error:
        module.fail_json(msg=str(error))
    except ScontrolError as error:
        module.fail_json(
            msg=f"{error}. The old configuration is back in place; see slurmctld's log for what it did not accept"
        )
    module.exit_json(
        changed=published.changed,
        before=dict(published.before),
        files=[str(change.path) for change in published.files],
        diff=[
            {
                "before": change.before,
                "after": change.after,
                "before_header": str(change.path),
                "after_header": str(change.path),
            }
            for change in published.files
        ],
    )


if __name__ == "__main__":
    main()
