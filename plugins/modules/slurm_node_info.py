#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of ``slurmd -C``; the work is done in module_utils/slurm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_node_info
short_description: Tell a machine's processors and memory as Slurm's slurmd counts them
version_added: 0.1.0
description:
  - Runs C(slurmd -C) and returns what it prints, the hardware part of a node's line in C(slurm.conf).
  - C(slurmd) needs neither configuration nor a running munge for it.
  - Never fails because C(slurmd) is not installed; RV(available) says so.
author:
  - The hpc.compute authors
options:
  slurmd:
    description: The command, found through the usual search path and C(/usr/sbin).
    type: str
    default: slurmd
attributes:
  check_mode:
    description: Can run in check mode and return the same result.
    support: full
  diff_mode:
    description: Nothing is changed, so there is no difference to show.
    support: none
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
seealso:
  - module: hpc.compute.slurm_gres
"""

EXAMPLES = r"""
- name: Ask slurmd for the hardware
  hpc.compute.slurm_node_info:
  register: node

- name: Show the line for slurm.conf
  ansible.builtin.debug:
    var: node['node_line']
  when: node['available']
"""

RETURN = r"""
available:
  description: Whether C(slurmd) is installed. When it isn't, all other values are null or empty.
  returned: always
  type: bool
cpus:
  description: Logical CPUs.
  returned: always
  type: int
  sample: 112
boards:
  description: Baseboards, nearly always 1.
  returned: always
  type: int
  sample: 1
sockets:
  description: Sockets of all boards together.
  returned: always
  type: int
  sample: 2
cores_per_socket:
  description: Cores of one socket.
  returned: always
  type: int
  sample: 28
threads_per_core:
  description: Threads of one core.
  returned: always
  type: int
  sample: 2
real_memory:
  description: Memory in MiB.
  returned: always
  type: int
  sample: 1031500
gres:
  description: C(Gres) of what C(slurmd) detects with the C(gres.conf) that is there, by full type names; may be empty.
  returned: always
  type: str
  sample: gpu:nvidia_h100_80gb_hbm3:4
name:
  description: The name that C(slurmd) gives the node, its host name.
  returned: always
  type: str
  sample: gpu01
node_line:
  description: All of it as a line for C(slurm.conf), without C(Gres).
  returned: always
  type: str
  sample: NodeName=gpu01 CPUs=112 Boards=1 SocketsPerBoard=2 CoresPerSocket=28 ThreadsPerCore=2 RealMemory=1031500
"""

from dataclasses import asdict, fields

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import (
    Completed,
    SlurmdError,
    SlurmdMissingError,
    locate,
    read_hardware,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.nodes import NodeHardware, node_line


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"slurmd": {"type": "str", "default": "slurmd"}},
        supports_check_mode=True,
    )
    try:
        slurmd = locate(module.params["slurmd"])
        hardware = read_hardware(lambda command: Completed(*module.run_command(list(command))), slurmd)
    except SlurmdMissingError:
        nothing = dict.fromkeys(field.name for field in fields(NodeHardware))
        module.exit_json(changed=False, available=False, node_line="", **nothing)
    except SlurmdError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, available=True, node_line=node_line(hardware), **asdict(hardware))


if __name__ == "__main__":
    main()
