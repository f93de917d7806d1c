#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of the GRES engine; the work is done in module_utils/slurm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_gres
short_description: Write gres.conf for the GPUs of a machine and prove that Slurm will bind the right devices
version_added: 0.1.0
description:
  - Reads the GPUs and MIG slices of the machine, predicts the devices that C(slurmd) will detect, and writes a
    C(gres.conf) with which it detects them.
  - Returns the C(Gres) value of the node for C(slurm.conf), by default every device under its full type name, and the
    values of C(GresTypes) and C(AccountingStorageTRES) that go with it.
  - Repeats Slurm's own matching of configured types to devices, and refuses a O(gres) that would give a type a wrong
    device, name none, ask for more than there is, or leave a device out. Nothing is written then.
  - On a machine without GPU it writes a C(gres.conf) that says so and returns an empty RV(gres).
author:
  - The hpc.compute authors
options:
  path:
    description: The file to write, through links. Its directory must exist, except in check mode.
    type: path
    default: /etc/slurm/gres.conf
  autodetect:
    description:
      - How C(slurmd) finds the devices.
      - With V(nvml) it detects them, names their types, and gives each job the UUIDs of its MIG slices.
      - With V(off), static mode, C(gres.conf) names every device, so that types can have any name (O(types)). C(slurmd)
        then knows no UUIDs. A C(TaskProlog) has to set C(CUDA_VISIBLE_DEVICES) from RV(uuid_map).
    type: str
    choices: [nvml, "off"]
    default: nvml
  types:
    description:
      - Names of types in static mode, by the type that C(slurmd) would detect or a pattern of it (C(*), C(?),
        C([...])), for example C(nvidia_a100*_1g.5gb) to V(a100-1g.5gb). A full type comes before patterns, and of these
        the first that fits counts. Types that nothing fits keep their full name.
      - Needs O(autodetect=off).
    type: dict
    default: {}
  shards:
    description:
      - How many jobs may share a whole GPU through the GRES C(shard), by type or pattern as in O(types), or by the name
        there. Adds them to RV(gres).
      - Refused on a machine with MIG slices.
    type: dict
    default: {}
  mps:
    description: As O(shards), for the GRES C(mps). The number is what each GPU has, V(100) for percent.
    type: dict
    default: {}
  store:
    description:
      - Also keep on the node, in C(/etc/hpc-compute/slurm-gres.json), how O(path) is made, so that
        C(gpu-layout.service) makes it anew at each boot. Device files of slices, and UUIDs, are others then, so static
        mode needs this.
      - Writes RV(uuid_map) with V(nvml), too, so that a C(TaskProlog) can name whole GPUs by UUID.
    type: bool
    default: false
  gres:
    description:
      - The C(Gres) value that the site wants, as in C(slurm.conf), for example V(gpu:a100_1g.5gb:7).
      - Every device must be named. Without this option each is, by its full type.
    type: str
  allow_unlisted:
    description: Accept a O(gres) that leaves devices out, as long as none is bound wrongly.
    type: bool
    default: false
  verify:
    description:
      - Also run C(slurmd -G), which reads the C(slurm.conf) and C(gres.conf) that are in force, and fail when its
        devices differ from the predicted ones. It needs a running munge and a C(slurm.conf) with this RV(gres).
      - Not done in check mode.
    type: bool
    default: false
  node_name:
    description: Name of the node in C(slurm.conf), where it is not the host name. Used by O(verify) only.
    type: str
  slurmd_options:
    description: More options for O(verify), such as V(-Z) for a node without a line in C(slurm.conf).
    type: list
    elements: str
    default: []
  slurmd:
    description: The command for O(verify), found through the usual search path and C(/usr/sbin).
    type: str
    default: slurmd
  root:
    description:
      - Directory below which C(/sys), C(/proc) and C(/dev) are read.
      - The driver that is asked is always that of the running machine.
    type: path
    default: /
  on_problem:
    description:
      - What to do about a GPU whose devices can't be known, such as one without a working driver or with MIG on but not
        cut. V(fail) does so before anything is written; V(ignore) goes on with the other GPUs and warns.
      - In check mode, a driver or a library that is not installed yet is only warned about.
    type: str
    choices: [fail, ignore]
    default: fail
extends_documentation_fragment:
  - ansible.builtin.files
attributes:
  check_mode:
    description: Tells what would be written, whatever is not installed yet.
    support: full
  diff_mode:
    description: Shows the difference of O(path).
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
requirements:
  - python3-pynvml and libnvidia-ml1, where the machine has a GPU
notes:
  - Run it as root, since the driver tells MIG instances to root only.
  - C(slurmd) reads C(gres.conf) when it starts. The file lists UUIDs as comments, so that it changes when slices were
    made anew and C(slurmd) must be restarted. RV(changed) also tells of RV(uuid_map) and what O(store) keeps.
seealso:
  - module: hpc.compute.gpu_info
  - module: hpc.compute.slurm_node_info
"""

EXAMPLES = r"""
- name: Write gres.conf, every device under its full type name
  hpc.compute.slurm_gres:
    mode: "0644"
  register: gres

- name: Put the devices into slurm.conf
  ansible.builtin.lineinfile:
    path: /etc/slurm/slurm.conf
    regexp: ^NodeName=gpu01\s
    line: NodeName=gpu01 CPUs=112 RealMemory=1031500 Gres={{ gres['gres'] }}

- name: Give the slices of all A100 a name of the site's own
  hpc.compute.slurm_gres:
    autodetect: "off"
    types:
      nvidia_a100*_1g.5gb: a100-1g.5gb
      nvidia_a100*_2g.10gb: a100-2g.10gb
    store: true
    mode: "0644"

- name: Let eight jobs share each L40S
  hpc.compute.slurm_gres:
    shards:
      nvidia_l40s: 8
    mode: "0644"

- name: Use shorter names, and let slurmd confirm what they stand for
  hpc.compute.slurm_gres:
    gres: gpu:h100:1,gpu:3g.40gb:1,gpu:1g.10gb:4
    verify: true
    mode: "0644"
"""

RETURN = r"""
uuid_map:
  description:
    - The file with the UUID of each device in Slurm's order, from which the C(TaskProlog) of the role
      C(hpc.compute.slurm_compute) sets C(CUDA_VISIBLE_DEVICES). In C(/run), as it does not outlive a boot.
  returned: always
  type: str
  sample: /run/hpc-compute/gpu-uuids
gres:
  description: C(Gres) of the node; empty without GPUs.
  returned: always
  type: str
  sample: gpu:nvidia_h100_80gb_hbm3:1,gpu:nvidia_h100_80gb_hbm3_1g.10gb:7
gres_types:
  description: Names for C(GresTypes).
  returned: always
  type: list
  elements: str
  sample: [gpu]
accounting_tres:
  description: Names for C(AccountingStorageTRES).
  returned: always
  type: list
  elements: str
  sample: [gres/gpu, "gres/gpu:nvidia_h100_80gb_hbm3"]
devices:
  description: The devices that C(slurmd) detects, in the order in which it detects them.
  returned: always
  type: list
  elements: dict
  contains:
    kind:
      description: V(gpu) for a whole GPU, V(mig) for a slice.
      type: str
      sample: mig
    type:
      description: Full type name.
      type: str
      sample: nvidia_h100_80gb_hbm3_1g.10gb
    files:
      description: Device files that a job gets access to.
      type: list
      elements: str
      sample: [/dev/nvidia0, /dev/nvidia-caps/nvidia-cap66, /dev/nvidia-caps/nvidia-cap67]
    uuid:
      description: UUID of the device. Slurm puts that of a slice into C(CUDA_VISIBLE_DEVICES); whole GPUs go by number.
      type: str
      sample: MIG-5d7a5f0e-2c4b-4f8e-9a52-0d5cf4a1b0c3
    pci_address:
      description: Where its board sits.
      type: str
      sample: "0000:3b:00.0"
    cores:
      description: Cores near it, in Slurm's numbering; null when not known.
      type: str
      sample: 0-27
    links:
      description: NVLinks to each GPU, -1 at itself; empty for a slice.
      type: list
      elements: int
      sample: [-1, 4]
bindings:
  description: What each configured type will be, in Slurm's order of devices.
  returned: always
  type: list
  elements: dict
  contains:
    label:
      description: The type in C(Gres); null for GPUs without one.
      type: str
      sample: h100
    type:
      description: Full type name of the device.
      type: str
      sample: nvidia_h100_80gb_hbm3
    file:
      description: Its device files, joined by commas.
      type: str
      sample: /dev/nvidia0
verified:
  description: Whether C(slurmd -G) was run and agreed.
  returned: always
  type: bool
problems:
  description: What keeps GPUs from being used, as M(hpc.compute.gpu_info) tells it.
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
path:
  description: The file.
  returned: always
  type: str
  sample: /etc/slurm/gres.conf
"""

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.gpu.inventory import read_inventory
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import (
    Completed,
    SlurmdError,
    locate,
    verify,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.cpus import read_topology
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import (
    GresMode,
    GresPlan,
    GresRefusedError,
    plan_gres,
)
from ansible_collections.hpc.compute.plugins.module_utils.slurm.sharing import SharingError, counts_of
from ansible_collections.hpc.compute.plugins.module_utils.slurm.static import UUID_MAP
from ansible_collections.hpc.compute.plugins.module_utils.slurm.stored import STORED, Stored


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/slurm/gres.conf"},
            "autodetect": {"type": "str", "choices": ["nvml", "off"], "default": "nvml"},
            "types": {"type": "dict", "default": {}},
            "shards": {"type": "dict", "default": {}},
            "mps": {"type": "dict", "default": {}},
            "store": {"type": "bool", "default": False},
            "gres": {"type": "str"},
            "allow_unlisted": {"type": "bool", "default": False},
            "verify": {"type": "bool", "default": False},
            "node_name": {"type": "str"},
            "slurmd_options": {"type": "list", "elements": "str", "default": []},
            "slurmd": {"type": "str", "default": "slurmd"},
            "root": {"type": "path", "default": "/"},
            "on_problem": {"type": "str", "choices": ["fail", "ignore"], "default": "fail"},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    try:
        mode = GresMode(
            module.params["autodetect"],
            {pattern: str(name) for pattern, name in module.params["types"].items()},
            {"shard": counts_of(module.params["shards"], "shards"), "mps": counts_of(module.params["mps"], "mps")},
        )
        plan = plan_gres(
            read_inventory(root),
            read_topology(root),
            mode=mode,
            wanted=module.params["gres"],
            allow_unlisted=module.params["allow_unlisted"],
            ignore_problems=module.params["on_problem"] == "ignore",
            not_installed_yet=module.check_mode,
        )
    except GresRefusedError as refused:
        module.fail_json(msg=str(refused), problems=[asdict(problem) for problem in refused.problems])
    except SharingError as error:
        module.fail_json(msg=str(error))
    for warning in plan.warnings:
        module.warn(warning)
    result = _result(plan, module.params["path"], root)
    # What Slurm now expects of the node, for a boot of one that has no slurm.conf to read it from.
    stored = Stored(mode, module.params["path"], plan.gres or None, module.params["allow_unlisted"])
    written = []
    if module.params["store"] or mode.autodetect == "off" or (root / UUID_MAP).exists():
        # The map first, and none of other devices: a job must never meet a gres.conf whose devices it does not know.
        written.append(_write_own(module, root / UUID_MAP, plan.uuid_map))
    if module.params["store"]:
        written.append(_write_own(module, root / STORED, stored.text()))
    written.insert(0, _write(module, plan.text))
    result["changed"] = any(changed for changed, _ in written)
    result["diff"] = [difference for _, differences in written for difference in differences]
    if module.params["verify"] and not module.check_mode:
        _verify(module, plan, result)
        result["verified"] = True
    module.exit_json(**result)


def _result(plan: GresPlan, path: str, root: Path) -> dict[str, Any]:
    return {
        "path": path,
        "uuid_map": str(root / UUID_MAP),
        "gres": plan.gres,
        "gres_types": plan.gres_types,
        "accounting_tres": plan.accounting_tres,
        "devices": [{**asdict(one), "files": list(one.files), "links": list(one.links)} for one in plan.devices],
        "bindings": [{"label": one.label, "type": one.device.type, "file": one.device.file} for one in plan.bindings],
        "problems": [asdict(problem) for problem in plan.problems],
        "verified": False,
    }


def _write(module: AnsibleModule, text: str) -> tuple[bool, list[dict[str, Any]]]:
    """Whether the file was or would be changed, and its difference; the file is replaced whole or not at all.

    A link stays one: what it points to is replaced.
    """
    path = Path(os.path.realpath(module.params["path"]))
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = None
    except (OSError, UnicodeDecodeError) as error:
        module.fail_json(msg=f"{path} was expected to be a readable text file: {error}")
    changed = before != text
    content = {"before": before or "", "after": text, "before_header": str(path), "after_header": str(path)}
    attributes: dict[str, Any] = {}
    if changed and not module.check_mode:
        if not path.parent.is_dir():
            module.fail_json(msg=f"the directory {path.parent} of {path} does not exist: install slurmd or make it")
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=module.tmpdir, delete=False) as draft:
            draft.write(text)
        module.atomic_move(draft.name, str(path), unsafe_writes=module.params["unsafe_writes"])
    if path.exists():
        wanted = module.load_file_common_arguments(module.params, path=str(path))
        changed = module.set_fs_attributes_if_different(wanted, changed, attributes)
    differences = [content] if content["before"] != content["after"] or before is None else []
    return changed, differences + ([attributes] if attributes.get("before") != attributes.get("after") else [])


def _write_own(module: AnsibleModule, path: Path, text: str) -> tuple[bool, list[dict[str, Any]]]:
    """As :func:`_write`, for a file that this collection alone reads. An empty *text* takes it away."""
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = ""
    except (OSError, UnicodeDecodeError) as error:
        module.fail_json(msg=f"{path} was expected to be a readable text file: {error}")
    if before == text:
        return False, []
    difference = {"before": before, "after": text, "before_header": str(path), "after_header": str(path)}
    if module.check_mode:
        return True, [difference]
    if not text:
        path.unlink()
        return True, [difference]
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=module.tmpdir, delete=False) as draft:
        draft.write(text)
    module.atomic_move(draft.name, str(path))
    path.chmod(0o644)  # jobs' tasks read it, as their users
    return True, [difference]


def _verify(module: AnsibleModule, plan: GresPlan, result: dict[str, Any]) -> None:
    try:
        differences = verify(
            lambda command: Completed(*module.run_command(list(command))),
            plan.bindings,
            slurmd=locate(module.params["slurmd"]),
            node_name=module.params["node_name"],
            options=module.params["slurmd_options"],
            static=module.params["autodetect"] == "off",
        )
    except SlurmdError as error:
        module.fail_json(msg=str(error), **result)
    if differences:
        module.fail_json(
            msg="slurmd -G differs from the devices of this machine: "
            + "; ".join(differences)
            + f". Expected Gres={plan.gres or '(none)'} for this node in slurm.conf",
            **result,
        )


if __name__ == "__main__":
    main()
