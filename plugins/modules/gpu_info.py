#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of the GPU inventory; the work is done in module_utils/gpu."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Tell which NVIDIA GPUs and MIG instances a machine has, and what keeps them from being used
version_added: 0.1.0
description:
  - Reads GPUs from sysfs, which works without any driver, and everything else from the NVIDIA driver through NVML.
  - Tells for each GPU its PCI address, ids, NUMA node, CPUs, index, minor, UUID, name, memory, NVLink peers, MIG mode,
    GPU and compute instances with profile, placement, UUID and device files.
  - Never fails because something is absent. No GPU is an empty list; a GPU without a working driver, a GPU that fell
    off the bus or a library that is too old is an entry of RV(problems).
author:
  - The hpc.compute authors (!UNKNOWN)
options:
  root:
    description:
      - Directory below which C(/sys), C(/proc) and C(/dev) are read.
      - The driver that is asked is always that of the running machine.
    type: path
    default: /
requirements:
  - python3-pynvml and libnvidia-ml1, where the machine has a GPU
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
notes:
  - Run it as root, since the driver tells MIG instances to root only.
"""

EXAMPLES = r"""
- name: Look at the GPUs
  hpc.compute.gpu_info:
  register: gpu
  become: true

- name: Go on only with GPUs that can be used
  ansible.builtin.assert:
    that: gpu['problems'] | length == 0
    fail_msg: "{{ gpu['problems'] | map(attribute='message') | join('\n') }}"

- name: Show the UUID of every MIG device
  ansible.builtin.debug:
    msg: "{{ gpu['gpus'] | map(attribute='gpu_instances') | flatten
      | map(attribute='compute_instances') | flatten | map(attribute='uuid') }}"
"""

RETURN = r"""
gpus:
  description: GPUs by PCI address. A value that could not be read is null, and RV(problems) says why.
  returned: always
  type: list
  elements: dict
  contains:
    pci_address:
      description: Where the board sits, as sysfs writes it.
      type: str
      sample: "0000:3b:00.0"
    vendor_id:
      description: PCI vendor, four hex digits.
      type: str
      sample: 10de
    device_id:
      description: PCI device, four hex digits.
      type: str
      sample: "2330"
    subsystem_vendor_id:
      description: PCI vendor of the board.
      type: str
      sample: 10de
    subsystem_device_id:
      description: PCI device of the board.
      type: str
      sample: 16c1
    class_code:
      description: PCI class, six hex digits.
      type: str
      sample: "030200"
    kernel_driver:
      description: Bound kernel driver, null when there is none.
      type: str
      sample: nvidia
    numa_node:
      description: NUMA node, null where the firmware names none.
      type: int
      sample: 0
    cpu_affinity:
      description: CPUs close to the GPU, as a kernel CPU list.
      type: str
      sample: 0-55,112-167
    iommu_group:
      description: IOMMU group, null without an IOMMU.
      type: int
      sample: 41
    board:
      description: Key in the MIG catalogue, null for a board it does not know.
      type: str
      sample: h100_80
    index:
      description: The driver's enumeration order, as C(nvidia-smi) prints it.
      type: int
      sample: 0
    minor:
      description: The number in C(/dev/nvidiaN).
      type: int
      sample: 0
    uuid:
      description: UUID of the GPU.
      type: str
      sample: GPU-5d7a5f0e-2c4b-4f8e-9a52-0d5cf4a1b0c3
    name:
      description: What the driver calls the board.
      type: str
      sample: NVIDIA H100 80GB HBM3
    memory_mib:
      description: Memory in MiB.
      type: int
      sample: 81559
    nvlink_peers:
      description: Number of direct NVLinks by PCI address of the other GPU. Links to an NVSwitch are not listed.
      type: dict
      sample: {}
    mig:
      description: C(capable), and modes C(current) and C(pending), which differ while a change waits for a reset.
      type: dict
      sample: {"capable": true, "current": true, "pending": true}
    gpu_instances:
      description: GPU instances by memory slot.
      type: list
      elements: dict
      contains:
        id:
          description: Id, which can't be derived from the placement.
          type: int
          sample: 1
        profile_id:
          description: Profile id, as C(nvidia-smi mig -cgi) takes it.
          type: int
          sample: 9
        profile:
          description: Profile name on this board and driver.
          type: str
          sample: 3g.40gb
        placement:
          description: C(start) and C(size) in memory slots.
          type: dict
          sample: {"start": 4, "size": 4}
        memory_mib:
          description: Memory in MiB.
          type: int
          sample: 40448
        compute_instances:
          description: Compute instances; each is a MIG device.
          type: list
          elements: dict
          contains:
            id:
              description: Id within the GPU instance.
              type: int
              sample: 0
            profile_id:
              description: Compute instance profile id.
              type: int
              sample: 2
            uuid:
              description: UUID, which CUDA_VISIBLE_DEVICES takes.
              type: str
              sample: MIG-0f2b7c7e-70b5-5d4c-8f0e-9d4a1a6b7a11
            name:
              description: What the driver calls the MIG device.
              type: str
              sample: NVIDIA H100 80GB HBM3 MIG 3g.40gb
            mig_index:
              description: The driver's enumeration order within the GPU.
              type: int
              sample: 0
            device_files:
              description: The files a process must be able to open, of GPU, GPU instance and compute instance.
              type: list
              elements: str
              sample: [/dev/nvidia0, /dev/nvidia-caps/nvidia-cap12, /dev/nvidia-caps/nvidia-cap13]
    device_files:
      description: The device file of the whole GPU.
      type: list
      elements: str
      sample: [/dev/nvidia0]
driver_version:
  description: Version of the NVIDIA driver, null when none is loaded.
  returned: always
  type: str
  sample: 550.163.01
nvswitch_count:
  description: Number of NVSwitches.
  returned: always
  type: int
  sample: 4
problems:
  description: What keeps GPUs from being used. Empty when all is well, also on a machine without GPU.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: A stable word for programs.
      type: str
      sample: driver_missing
    message:
      description: What was expected, what was found, what to do.
      type: str
    pci_address:
      description: The GPU it is about, null when it is about the machine.
      type: str
      sample: "0000:3b:00.0"
inventory:
  description:
    - All of the above and C(nvml_version) in one value, with a C(schema) number, for other modules and filters of this
      collection.
  returned: always
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.gpu.inventory import read_inventory


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"root": {"type": "path", "default": "/"}},
        supports_check_mode=True,
    )
    inventory = read_inventory(Path(module.params["root"])).to_dict()
    module.exit_json(
        changed=False,
        inventory=inventory,
        gpus=inventory["gpus"],
        driver_version=inventory["driver_version"],
        nvswitch_count=inventory["nvswitch_count"],
        problems=inventory["problems"],
    )


if __name__ == "__main__":
    main()
