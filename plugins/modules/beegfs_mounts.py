#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of a BeeGFS client's mounts; the work is done in module_utils/beegfs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: beegfs_mounts
short_description: Configure a BeeGFS client, mount its file systems, and prove that they work
version_added: 0.2.0
description:
  - Writes C(beegfs-client.conf) and its lists from checked settings, the secret of the connection authentication, and
    a systemd mount unit for each file system; mounts them; and verifies that each is BeeGFS, answers and takes a file.
  - A file system whose settings change is mounted anew, only when nobody uses it. Where it can't be mounted with the
    new settings, the old ones are put back and it is mounted as before.
  - Mounts that an earlier call made and that are not wanted any more are unmounted and removed.
  - A file system that hangs can't hold it up. Everything that touches one has a time limit.
author:
  - The hpc.compute authors
options:
  version:
    description: Release of BeeGFS that is installed, as V(8.3) or V(8.3.1).
    type: str
    required: true
  mounts:
    description: The mounts. An option that is not given is that of the module.
    type: list
    elements: dict
    required: true
    suboptions: &mount
      path:
        description: Where it is mounted.
        type: str
        required: true
      mgmtd_host:
        description: Name or address of the host of the management daemon.
        type: str
        required: true
      mgmtd_port:
        description: Port of the management daemon.
        type: int
        default: 8008
      client_port:
        description: UDP port on which the client listens. Each mount needs one of its own.
        type: int
        default: 8004
      authentication:
        description: Whether connections are authenticated.
        type: bool
      conn_auth:
        description: The shared secret as base64 text.
        type: str
      rdma:
        description: Whether to use RDMA where there is hardware for it.
        type: bool
      rdma_interfaces:
        description: Interfaces to use for outgoing RDMA connections.
        type: list
        elements: str
      interfaces:
        description: Interfaces made known to the servers, by preference. From 8 on a line may be a filter.
        type: list
        elements: str
      net_filter:
        description: Networks to which connections may be made.
        type: list
        elements: str
      tcp_only_filter:
        description: Networks to which no RDMA connection is made.
        type: list
        elements: str
      options:
        description: More mount options, such as V(ro) or V(noatime).
        type: list
        elements: str
      settings:
        description: Keys of C(beegfs-client.conf). What the release does not know or would misread is refused.
        type: dict
      settings_unchecked:
        description: Keys that are newer than this module's table. They are written as they are.
        type: dict
  authentication:
    description: See O(mounts[].authentication).
    type: bool
    default: true
  conn_auth:
    description: See O(mounts[].conn_auth).
    type: str
  rdma:
    description: See O(mounts[].rdma).
    type: bool
    default: true
  rdma_interfaces:
    description: See O(mounts[].rdma_interfaces).
    type: list
    elements: str
    default: []
  interfaces:
    description: See O(mounts[].interfaces).
    type: list
    elements: str
    default: []
  net_filter:
    description: See O(mounts[].net_filter).
    type: list
    elements: str
    default: []
  tcp_only_filter:
    description: See O(mounts[].tcp_only_filter).
    type: list
    elements: str
    default: []
  options:
    description: See O(mounts[].options).
    type: list
    elements: str
    default: []
  settings:
    description: See O(mounts[].settings).
    type: dict
    default: {}
  settings_unchecked:
    description: See O(mounts[].settings_unchecked).
    type: dict
    default: {}
  slurmd:
    description:
      - What the mounts mean to C(slurmd.service). V(wait) starts it after they were tried, whatever became of them;
        V(require) starts it only where they succeeded, and stops it when one is unmounted; V(ignore) leaves it alone.
    type: str
    choices: [ignore, wait, require]
    default: wait
  remount:
    description:
      - What to do about a mount whose settings change. V(when_idle) mounts it anew, and fails before anything is
        changed where it is in use. V(later) leaves it as it is until somebody mounts it again, and tells of it in
        RV(pending).
    type: str
    choices: [when_idle, later]
    default: when_idle
  write_test:
    description: Whether to write a file to each mount, read it and remove it.
    type: bool
    default: true
  timeout:
    description: How many seconds a mount may take to answer.
    type: float
    default: 30
  fstypes:
    description: What a mount may call itself. The package beegfs-client-compat makes others, such as V(beegfs-7).
    type: list
    elements: str
    default: [beegfs]
  root:
    description: Directory below which files are read and written. The commands are always this machine's.
    type: path
    default: /
attributes:
  check_mode:
    description: Tells what would be done, and touches no mount. Works before BeeGFS is installed.
    support: full
  diff_mode:
    description: Shows every file before and after, secrets without their content.
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
notes:
  - Run it as root.
  - The mount units are the same for 7.4 and 8, because Debian's DKMS package of the client has no service of its own.
"""

EXAMPLES = r"""
- name: Mount two file systems
  hpc.compute.beegfs_mounts:
    version: "8.3"
    conn_auth: "{{ vault_beegfs_conn_auth }}"
    settings:
      connMaxInternodeNum: 16
    mounts:
      - path: /mnt/beegfs
        mgmtd_host: beegfs-mgmt
      - path: /mnt/scratch
        mgmtd_host: scratch-mgmt
        client_port: 8014
        options: [noatime]
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [write /etc/beegfs/beegfs-client.conf, mount /mnt/beegfs]
mounts:
  description: What each mount was found to be. Empty in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Where it is mounted.
      type: str
      sample: /mnt/beegfs
    fstype:
      description: What it calls itself.
      type: str
      sample: beegfs
    total_bytes:
      description: Its size.
      type: int
      sample: 492581209243648
    free_bytes:
      description: What is free for users.
      type: int
      sample: 92581209243648
    written:
      description: Whether a file was written and read.
      type: bool
pending:
  description: Paths that are mounted with older settings, with O(remount=later).
  returned: success
  type: list
  elements: str
  sample: []
"""

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.apply import Change, Client, ClientError
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.check import COMMON
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.files import files
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.machine import Machine
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.mounts import read
from ansible_collections.hpc.compute.plugins.module_utils.beegfs.release import Release, ReleaseError

_COMMON_SPEC: dict[str, dict[str, Any]] = {
    "authentication": {"type": "bool"},
    "conn_auth": {"type": "str", "no_log": True},
    "rdma": {"type": "bool"},
    "rdma_interfaces": {"type": "list", "elements": "str"},
    "interfaces": {"type": "list", "elements": "str"},
    "net_filter": {"type": "list", "elements": "str"},
    "tcp_only_filter": {"type": "list", "elements": "str"},
    "options": {"type": "list", "elements": "str"},
    "settings": {"type": "dict"},
    "settings_unchecked": {"type": "dict"},
}
_DEFAULTS = {"bool": True, "list": [], "dict": {}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "mounts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "str", "required": True},
                    "mgmtd_host": {"type": "str", "required": True},
                    "mgmtd_port": {"type": "int", "default": 8008},
                    "client_port": {"type": "int", "default": 8004},
                    **_COMMON_SPEC,
                },
            },
            **{
                name: {**spec, **({"default": _DEFAULTS[str(spec["type"])]} if name != "conn_auth" else {})}
                for name, spec in _COMMON_SPEC.items()
            },
            "slurmd": {"type": "str", "choices": ["ignore", "wait", "require"], "default": "wait"},
            "remount": {"type": "str", "choices": ["when_idle", "later"], "default": "when_idle"},
            "write_test": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 30},
            "fstypes": {"type": "list", "elements": "str", "default": ["beegfs"]},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        release = Release.parse(given["version"])
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    mounts, problems = read(given["mounts"], {name: given[name] for name in COMMON}, release)
    if problems:
        module.fail_json(msg="\n".join(problems))
    client = Client(Machine(Path(given["root"])), given["fstypes"], remount_later=given["remount"] == "later")
    found: list[dict[str, object]] = []
    try:
        plan = client.plan(mounts, files(mounts, release, given["slurmd"]))
        if not module.check_mode:
            client.carry_out(plan)
            name = socket.gethostname().split(".")[0]
            found = client.verify(mounts, given["timeout"], write=given["write_test"], name=name)
    except ClientError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=plan.changed,
        actions=plan.actions,
        mounts=found,
        pending=list(plan.pending),
        diff=list(_diffs(plan.changes)),
    )


def _diffs(changes: Iterable[Change]) -> Iterable[dict[str, str]]:
    for change in changes:
        before, after = _shown(change, change.before), _shown(change, change.after.content if change.after else None)
        yield {
            "before_header": str(change.path),
            "after_header": str(change.path),
            "before": before,
            "after": after if before != after or not change.secret else after + "(another secret)\n",
        }


def _shown(change: Change, content: bytes | None) -> str:
    if content is None:
        return ""
    return "(a secret)\n" if change.secret else content.decode("utf-8", errors="replace")


if __name__ == "__main__":
    main()
