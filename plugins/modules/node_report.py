#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of the examination of a node or an image; the work is done in module_utils/verify."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_report
short_description: Tell what a compute node or an image of one is made of, and what is wrong with it
version_added: 0.2.0
description:
  - Reads versions, installed kernels with the modules built for them, units, and on a node in service its health
    (driver, GPUs, layout, GRES, mounts, disks). Of an image it tells what is left of the machine that made it, and
    whether it has a layout to cut; which GPUs and which GRES a machine made from it has, no image knows.
  - Changes nothing, and does not fail for what it finds. It must be root, who alone can read all of it.
author:
  - The hpc.compute authors (!UNKNOWN)
options:
  image:
    description: Whether this is an image to be copied, and not a node in service.
    type: bool
    default: false
  root:
    description: Root directory of the system, for an image that is mounted somewhere.
    type: path
    default: /
  node:
    description: The node's name in Slurm; the short host name unless given.
    type: str
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
"""

EXAMPLES = r"""
- name: Look at the node
  hpc.compute.node_report:
  register: report

- name: Look at a mounted image
  hpc.compute.node_report:
    root: /mnt/image
    image: true
"""

RETURN = r"""
good:
  description: Whether nothing is wrong.
  returned: always
  type: bool
rows:
  description: What was looked at.
  returned: always
  type: list
  elements: dict
  contains:
    subject:
      description: V(version), V(kernel), V(unit), and V(health), or for an image V(layout), V(gres) and V(hygiene).
      type: str
    item:
      description: What of it.
      type: str
      sample: Slurm
    state:
      description: V(ok), V(absent), V(unknown) or V(wrong).
      type: str
    detail:
      description: What there is, or what is wrong.
      type: str
      sample: slurmd 24.11.5-4
table:
  description: The same as lines for people.
  returned: always
  type: list
  elements: str
"""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.health.run import Node
from ..module_utils.slurm.control import Completed
from ..module_utils.verify.examine import examine
from ..module_utils.verify.model import good, table

_TIMEOUT = 60


def run(command: Sequence[str]) -> Completed:
    """Run a command that only reads; one that is missing or hangs has the exit code that a shell would give."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return Completed(124, "", f"no answer in {_TIMEOUT} s")
    except OSError as error:
        return Completed(127, "", f"{command[0]}: {error.strerror or error}")
    return Completed(done.returncode, done.stdout, done.stderr)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "bool", "default": False},
            "root": {"type": "path", "default": "/"},
            "node": {"type": "str"},
        },
        supports_check_mode=True,
    )
    if os.geteuid() != 0:
        # what it can't read it would not find, and call clean
        module.fail_json(msg=f"expected to be root, found user {os.geteuid()}: use become (ansible -b)")
    root = Path(module.params["root"])
    if not (root / "etc").is_dir():
        module.fail_json(msg=f"expected the root directory of a system at {root}, found no {root / 'etc'}")
    name = module.params["node"] or socket.gethostname().partition(".")[0]
    rows = examine(Node(name, root), run, module.params["image"])
    module.exit_json(changed=False, good=good(rows), rows=[row.to_dict() for row in rows], table=table(rows))


if __name__ == "__main__":
    main()
