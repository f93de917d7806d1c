#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine has for Apptainer containers; the work is done in module_utils/containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_runtime_info
short_description: Tell what a machine has for Apptainer containers with GPUs
version_added: 0.1.0
description:
  - Tells which Apptainer packages are installed, whether ordinary users can run containers, and whether
    C(apptainer --nv) would take all of the NVIDIA driver's libraries into a container.
  - Never fails because something is absent; that is a value which is returned.
author:
  - The hpc.compute authors
options:
  temporary_directory:
    description: The directory of which RV(temporary_in_memory) and RV(temporary_there) speak.
    type: path
    default: /tmp
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
- name: See what there is for containers
  hpc.compute.container_runtime_info:
  register: containers

- name: Name libraries of the driver that containers would lack
  ansible.builtin.debug:
    var: containers['driver']['unlisted']
"""

RETURN = r"""
architecture:
  description: Debian's word for the machine's architecture.
  returned: always
  type: str
  sample: amd64
versions:
  description: Versions of the packages C(apptainer) and C(apptainer-suid); empty for one that is not installed.
  returned: always
  type: dict
  sample: {apptainer: 1.5.4, apptainer-suid: ""}
user_namespaces:
  description:
    - Whether an ordinary user can make a user namespace, which every container without setuid needs, and why not.
  returned: always
  type: dict
  sample: {available: true, reason: ""}
fuse:
  description:
    - Whether there is C(/dev/fuse). Without it Apptainer unpacks an image before it runs it, and checks no signature.
  returned: always
  type: bool
temporary_in_memory:
  description: Whether the temporary directory lies in memory.
  returned: always
  type: bool
temporary_there:
  description: Whether the temporary directory exists.
  returned: always
  type: bool
driver:
  description:
    - The NVIDIA driver's libraries. C(version) is empty where none is installed; C(unlisted) are those that
      C(/etc/apptainer/nvliblist.conf) lacks as the package has it; C(missing) are needed by CUDA and not installed.
  returned: always
  type: dict
  sample: {version: 580.95.05, names: [libcuda.so], unlisted: [], missing: []}
nvliblist_added:
  description: Names that an earlier run has added to C(/etc/apptainer/nvliblist.conf).
  returned: always
  type: list
  elements: str
device_specifications:
  description: Files of the Container Device Interface in C(/etc/cdi) and C(/var/run/cdi).
  returned: always
  type: list
  elements: str
  sample: [/var/run/cdi/nvidia.yaml]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.containers.facts import gather


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"temporary_directory": {"type": "path", "default": "/tmp"}},  # noqa: S108
        supports_check_mode=True,
    )
    try:
        found = gather(lambda command: module.run_command(list(command)), module.params["temporary_directory"])
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
