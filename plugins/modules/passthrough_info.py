#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of GPU passthrough on a host; the work is done in module_utils/gpu/passthrough."""

from __future__ import annotations

DOCUMENTATION = r"""
module: passthrough_info
short_description: Tell whether a host can hand its NVIDIA GPUs to virtual machines, and what is in the way
version_added: 0.2.0
description:
  - Run it on the host of the virtual machines. It reads sysfs only and needs no driver.
  - Looks at the IOMMU, at the driver each GPU is bound to, and at what else is in its IOMMU group.
author:
  - The hpc.compute authors (!UNKNOWN)
options:
  root:
    description: Directory below which C(/sys) is read.
    type: path
    default: /
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
  - plugin: hpc.compute.libvirt_domains
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Look at the host's GPUs
  hpc.compute.passthrough_info:
  register: host

- name: Go on only where all of them can be handed on
  ansible.builtin.assert:
    that: host.problems | length == 0
    fail_msg: "{{ host.problems | map(attribute='message') | join('\n') }}"
"""

RETURN = r"""
iommu:
  description: Whether the kernel uses an IOMMU.
  returned: always
  type: bool
candidates:
  description: The host's GPUs.
  returned: always
  type: list
  elements: dict
  contains:
    pci_address:
      description: Where it sits.
      type: str
      sample: "0000:01:00.0"
    device_id:
      description: PCI device, four hex digits.
      type: str
      sample: "2330"
    kernel_driver:
      description: Bound driver, null when unbound.
      type: str
      sample: vfio-pci
    iommu_group:
      description: Its group, null without one.
      type: int
      sample: 41
    neighbours:
      description: Other functions in the group, bridges excepted, with C(address), C(class_code) and C(kernel_driver).
      type: list
      elements: dict
    ready:
      description: Whether a virtual machine can be started with it.
      type: bool
problems:
  description:
    - What is in the way, each with C(code), C(message) and C(pci_address).
    - Codes are V(iommu_off), V(iommu_group_missing), V(not_vfio), V(group_shared), V(sysfs_unreadable).
  returned: always
  type: list
  elements: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.gpu import passthrough


def main() -> None:
    module = AnsibleModule(
        argument_spec={"root": {"type": "path", "default": "/"}},
        supports_check_mode=True,
    )
    module.exit_json(changed=False, **passthrough.read_host(Path(module.params["root"])).to_dict())


if __name__ == "__main__":
    main()
