#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of the rules of what may not be in an image; the work is done in module_utils/image."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_seal
short_description: Remove from a system what makes it one machine, so that it can be an image
version_added: 0.2.0
description:
  - Removes munge key, what node-join was told, the secrets of BeeGFS and of the monitoring, ssh host keys,
    authorized keys, machine id, random seeds, DKMS's signing key, cloud-init's state,
    Slurm's configuration of one cluster, logs, histories, apt's lists and packages, temporary files.
  - Licences, documentation, time zones and locales stay.
  - Run it last, on a machine that is shut down next. A machine in service loses its identity.
author:
  - The hpc.compute authors (!UNKNOWN)
options:
  root:
    description: Root directory of the system, for one that is mounted somewhere.
    type: path
    default: /
attributes:
  check_mode:
    description: Can run in check mode and tells what would be removed.
    support: full
  diff_mode:
    description: Lists the paths.
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
"""

EXAMPLES = r"""
- name: Make an image of this machine
  hpc.compute.image_seal:

- name: Look what a mounted image still has
  hpc.compute.image_seal:
    root: /mnt/image
  check_mode: true
  register: seal
  failed_when: seal.leftovers | length > 0
"""

RETURN = r"""
leftovers:
  description: What was found and, outside of check mode, removed.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: Path in the image.
      type: str
      sample: /etc/munge/munge.key
    subject:
      description: What it is.
      type: str
      sample: munge key
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.image import identity


def main() -> None:
    module = AnsibleModule(
        argument_spec={"root": {"type": "path", "default": "/"}},
        supports_check_mode=True,
    )
    if os.geteuid() != 0:
        # what it can't read it would not find, and call clean
        module.fail_json(msg=f"expected to be root, found user {os.geteuid()}: use become (ansible -b)")
    root = Path(module.params["root"])
    if not (root / "etc").is_dir():
        module.fail_json(msg=f"expected the root directory of a system at {root}, found no {root / 'etc'}")
    try:
        found = identity.leftovers(root)
        if not module.check_mode:
            identity.remove(root, found)
    except OSError as error:
        module.fail_json(msg=f"sealing {root} failed at {error.filename}: {error.strerror}")
    before = "".join(f"{one.path} ({one.rule.subject})\n" for one in found)
    module.exit_json(
        changed=bool(found),
        leftovers=[one.to_dict() for one in found],
        diff={"before_header": "left by this machine", "after_header": "sealed", "before": before, "after": ""},
    )


if __name__ == "__main__":
    main()
