#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of the change of a GPU layout; the work is done in module_utils/mig."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mig_layout
short_description: Cut the GPUs of a machine into MIG instances as a layout says
version_added: 0.1.0
description:
  - Plans the way from what the GPUs are cut into now to what the layout wants, so that as few instances as possible are
    destroyed, and carries it out GPU by GPU.
  - Each GPU ends as wanted or as it was. When a step fails the GPU is rolled back, GPUs before it are as wanted, GPUs
    after it are untouched, and the message says so. After a kill or a power loss the next run puts things straight.
  - GPUs that no entry of the layout names are left alone. On a machine without GPU there is nothing to do.
author:
  - The hpc.compute authors
options:
  layout:
    description:
      - The layout in mig-parted's format, with C(version) and C(mig-configs), as a dictionary or as YAML text.
      - YAML text needs PyYAML on the managed node. In a dictionary, put PCI addresses and device filters in quotes.
    type: raw
  layout_file:
    description: A file on the managed node with the layout. Needs PyYAML there.
    type: path
  config:
    description: Which configuration of the layout to apply. Not needed when it has only one.
    type: str
  on_busy:
    description:
      - What to do when an instance would have to go that a process uses. V(fail) refuses, and lists instances and
        processes. V(destroy) tries all the same; the driver still refuses what is really in use, which is then rolled
        back. No process is ever ended.
    type: str
    choices: [fail, destroy]
    default: fail
  reset:
    description:
      - Ampere boards change their MIG mode with a reset only. V(when_needed) resets such a GPU, and no other, with
        C(nvidia-smi); V(never) leaves it to the next reboot. See RV(reboot_required).
    type: str
    choices: [never, when_needed]
    default: when_needed
  stop_services:
    description:
      - Units to be stopped while a MIG mode changes or a GPU is reset, and started again afterwards, also after a
        failure. Only those that run are touched. Monitors that keep GPUs open belong here, such as
        C(nvidia-dcgm.service).
    type: list
    elements: str
    default: []
  partial:
    description:
      - What to do about GPUs that the layout names and that are not there or can't be read. V(fail) changes nothing;
        V(skip) leaves them out and warns.
    type: str
    choices: [fail, skip]
    default: fail
  slurm:
    description:
      - What Slurm is to be told of the devices afterwards, with options of M(hpc.compute.slurm_gres).
      - Where it would not fit the devices that the layout makes, nothing is changed and the reason is told. So a stale
        list of types is found before a GPU is cut, and not by a C(slurmd) that can't start any more.
    type: dict
    suboptions:
      autodetect:
        description: How C(slurmd) finds the devices.
        type: str
        choices: [nvml, "off"]
        default: nvml
      types:
        description: Names of types in static mode.
        type: dict
        default: {}
      shards:
        description: How many jobs may share a whole GPU.
        type: dict
        default: {}
      mps:
        description: How much C(mps) a whole GPU has.
        type: dict
        default: {}
      gres:
        description: The C(Gres) value that the site wants. Without it every device is offered.
        type: str
      allow_unlisted:
        description: Accept a O(slurm.gres) that leaves devices out.
        type: bool
        default: false
  lock_timeout:
    description: How many seconds to wait for another change of this machine's layout to end.
    type: float
    default: 60
  root:
    description:
      - Directory below which C(/sys), C(/dev) and C(/proc/driver) are read, and C(/run) and C(/var/lib) are written.
      - The driver that is asked is always that of the running machine.
    type: path
    default: /
requirements:
  - python3-pynvml and libnvidia-ml1, where the machine has a GPU
attributes:
  check_mode:
    description: Shows exactly the steps that would be carried out. A driver that is not installed yet is warned about.
    support: full
  diff_mode:
    description: Shows mode and instances of each GPU before and after.
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
notes:
  - Run it as root.
  - Instances do not survive a reboot. Role C(hpc.compute.gpu_layout) stores the layout and applies it at each boot.
seealso:
  - module: hpc.compute.gpu_info
  - module: hpc.compute.gpu_layout_command
"""

EXAMPLES = r"""
- name: Cut every H100 into seven slices, and leave other boards alone
  hpc.compute.mig_layout:
    layout:
      version: v1
      mig-configs:
        small:
          - devices: ["*H100*"]
            mig-enabled: true
            mig-devices:
              1g: 7

- name: Apply one of the configurations of a mig-parted file
  hpc.compute.mig_layout:
    layout_file: /etc/nvidia-mig-manager/config.yaml
    config: all-balanced
    stop_services: [nvidia-dcgm.service]
  register: cut

- name: Cut the GPUs only if Slurm can then offer seven slices of this name
  hpc.compute.mig_layout:
    layout: "{{ layout }}"
    slurm:
      autodetect: "off"
      types:
        nvidia_a100*_1g.5gb: a100-1g.5gb
      gres: gpu:a100-1g.5gb:7

- name: Reboot where a GPU could not be reset
  ansible.builtin.reboot:
  when: cut['reboot_required']
"""

RETURN = r"""
before:
  description: Each GPU with its instances as it was.
  returned: always
  type: list
  elements: dict
  contains: &state
    pci_address:
      description: Where the board sits.
      type: str
      sample: "0000:3b:00.0"
    index:
      description: The driver's enumeration order.
      type: int
      sample: 0
    model:
      description: What the driver calls the board.
      type: str
      sample: NVIDIA H100 80GB HBM3
    mig_capable:
      description: Whether the GPU can do MIG.
      type: bool
    mig_enabled:
      description: MIG mode, null where it can't be told.
      type: bool
    mig_pending:
      description: MIG mode after the next reset or reboot.
      type: bool
    instances:
      description: GPU instances by slot, with C(id), C(profile), C(profile_id), C(start), C(size), and C(uuids).
      type: list
      elements: dict
after:
  description: The same afterwards, read again; in check mode as before.
  returned: always
  type: list
  elements: dict
  contains: *state
steps:
  description:
    - The steps that were carried out, or in check mode the steps that would be. Each has C(pci_address), C(action),
      C(text) and the action's own values.
  returned: always
  type: list
  elements: dict
gpus:
  description: How it went for each GPU that was to be changed.
  returned: always
  type: list
  elements: dict
  contains:
    pci_address:
      description: Where the board sits.
      type: str
    state:
      description: >-
        V(wanted), V(previous), V(reboot_required), V(untouched); V(between) where the rollback failed too and
        V(unknown) where the GPU does not answer any more.
      type: str
      sample: wanted
    message:
      description: The same in words, with what is there now.
      type: str
kept:
  description: GPU instances that existed before and stay, with C(pci_address), C(id), C(profile) and C(start).
  returned: always
  type: list
  elements: dict
destroyed:
  description: GPU instances that existed before and go, in the same form.
  returned: always
  type: list
  elements: dict
reboot_required:
  description: Whether a MIG mode changes with the next reboot only, after which C(gpu-layout.service) does the rest.
  returned: always
  type: bool
notes:
  description: Worth knowing and no failure, such as an interrupted change that was found.
  returned: always
  type: list
  elements: str
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply import Outcome, apply, look
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_prepare import Host, Options, Prepared
from ansible_collections.hpc.compute.plugins.module_utils.mig.apply_report import (
    done_steps,
    kept_and_destroyed,
    machine_state,
    machine_text,
    planned_steps,
    predicted,
    result_report,
)
from ansible_collections.hpc.compute.plugins.module_utils.mig.checkpoint import CheckpointError
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import Entry, LayoutError, parse_layout
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout_file import load_layout, read_layout
from ansible_collections.hpc.compute.plugins.module_utils.mig.lock import LockError
from ansible_collections.hpc.compute.plugins.module_utils.slurm.foresee import Offer, misfit
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import GresMode
from ansible_collections.hpc.compute.plugins.module_utils.slurm.sharing import SharingError, counts_of

# Problems that end when what a playbook installs is installed.
_NOT_INSTALLED = frozenset({"driver_missing", "nvml_library_missing", "pynvml_missing", "driver_not_responding"})


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "layout": {"type": "raw"},
            "layout_file": {"type": "path"},
            "config": {"type": "str"},
            "on_busy": {"type": "str", "choices": ["fail", "destroy"], "default": "fail"},
            "reset": {"type": "str", "choices": ["never", "when_needed"], "default": "when_needed"},
            "stop_services": {"type": "list", "elements": "str", "default": []},
            "partial": {"type": "str", "choices": ["fail", "skip"], "default": "fail"},
            "slurm": {
                "type": "dict",
                "options": {
                    "autodetect": {"type": "str", "choices": ["nvml", "off"], "default": "nvml"},
                    "types": {"type": "dict", "default": {}},
                    "shards": {"type": "dict", "default": {}},
                    "mps": {"type": "dict", "default": {}},
                    "gres": {"type": "str"},
                    "allow_unlisted": {"type": "bool", "default": False},
                },
            },
            "lock_timeout": {"type": "float", "default": 60},
            "root": {"type": "path", "default": "/"},
        },
        mutually_exclusive=[("layout", "layout_file")],
        required_one_of=[("layout", "layout_file")],
        supports_check_mode=True,
    )
    try:
        run(module)
    except LayoutError as error:
        if module.check_mode and find_spec("yaml") is None:
            module.warn(f"not checked: {error}")
            module.exit_json(changed=False, **_nothing())
        module.fail_json(msg=str(error))
    except (LockError, CheckpointError, SharingError) as error:
        module.fail_json(msg=str(error))


def run(module: AnsibleModule) -> None:
    """Plan, and outside of check mode apply.

    :raises LayoutError, LockError, CheckpointError, SharingError: nothing was changed.
    """
    entries = _entries(module.params)
    options = Options(
        on_busy=module.params["on_busy"],
        reset=module.params["reset"],
        stop_services=tuple(module.params["stop_services"]),
        partial=module.params["partial"],
        lock_wait_s=module.params["lock_timeout"],
    )
    host = Host(root=Path(module.params["root"]))
    offer = _offer(module.params["slurm"])
    if module.check_mode or offer is not None:
        prepared = look(entries, options, host)
        reason = None if offer is None else misfit(prepared, offer)
        if module.check_mode:
            _check(module, prepared, reason)
            return
        if reason is not None:
            module.fail_json(msg=reason, **_planned(prepared))
    outcome = apply(entries, options, host)
    result = _result(outcome)
    for note in result["notes"]:
        module.warn(note) if outcome.prepared.inventory.gpus else module.log(note)
    if outcome.failed:
        module.fail_json(msg="; ".join(outcome.failures), **result)
    module.exit_json(**result)


def _entries(params: dict[str, Any]) -> tuple[Entry, ...]:
    if params["layout_file"] is not None:
        return read_layout(Path(params["layout_file"])).config(params["config"])
    layout = params["layout"]
    parsed = load_layout(layout) if isinstance(layout, str) else parse_layout(layout)
    return parsed.config(params["config"])


def _offer(slurm: dict[str, Any] | None) -> Offer | None:
    if slurm is None:
        return None
    shared = {"shard": counts_of(slurm["shards"], "shards"), "mps": counts_of(slurm["mps"], "mps")}
    types = {pattern: str(name) for pattern, name in slurm["types"].items()}
    return Offer(GresMode(slurm["autodetect"], types, shared), slurm["gres"], slurm["allow_unlisted"])


def _planned(prepared: Prepared) -> dict[str, Any]:
    """What would be done, in the form of what was done."""
    steps = planned_steps(prepared)
    before = machine_text(prepared.inventory)
    result = _nothing() | {
        "changed": bool(steps),
        "before": machine_state(prepared.inventory),
        "after": machine_state(prepared.inventory),
        "steps": steps,
        "reboot_required": _waits_for_reboot(prepared),
        "notes": list(prepared.notes),
        "diff": _diff(before, machine_text(prepared.inventory, predicted(prepared)), steps),
    }
    result["kept"], result["destroyed"] = kept_and_destroyed(prepared)
    return result


def _check(module: AnsibleModule, prepared: Prepared, reason: str | None) -> None:
    result = _planned(prepared)
    for note in prepared.notes if prepared.inventory.gpus else ():
        module.warn(note)
    if prepared.refusals:
        codes = {problem.code for problem in prepared.inventory.problems}
        if not codes & _NOT_INSTALLED:
            module.fail_json(msg="; ".join(prepared.refusals), **result)
        # A playbook's earlier tasks would have installed it.
        for refusal in prepared.refusals:
            module.warn(refusal)
    if reason is not None:
        module.fail_json(msg=reason, **result)
    module.exit_json(**result)


def _result(outcome: Outcome) -> dict[str, Any]:
    prepared = outcome.prepared
    kept, destroyed = kept_and_destroyed(prepared)
    steps = done_steps(outcome)
    return {
        "changed": outcome.changed,
        "before": machine_state(prepared.inventory),
        "after": machine_state(outcome.after),
        "steps": steps,
        "gpus": [result_report(result) for result in outcome.results],
        "kept": kept,
        "destroyed": destroyed,
        "reboot_required": outcome.reboot_required,
        "notes": list(prepared.notes),
        "diff": _diff(machine_text(prepared.inventory), machine_text(outcome.after), steps),
    }


def _nothing() -> dict[str, Any]:
    lists: dict[str, Any] = {name: [] for name in ("before", "after", "steps", "gpus", "kept", "destroyed", "notes")}
    return lists | {"reboot_required": False}


def _waits_for_reboot(prepared: Prepared) -> bool:
    return any(prepared.steps_now(job) != job.steps for job in prepared.jobs)


def _diff(before: str, after: str, steps: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The GPUs before and after, and as a text of its own the steps between, in order."""
    shown = [{"before": before, "after": after, "before_header": "GPUs before", "after_header": "GPUs after"}]
    if steps:
        lines = "".join(f"{step['pci_address']}  {step['text']}\n" for step in steps)
        shown.append({"before": "", "after": lines, "before_header": "no steps", "after_header": "steps, in order"})
    return shown


if __name__ == "__main__":
    main()
