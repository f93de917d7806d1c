#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the small files that a role owns; the work is done in module_utils/files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: text_files
short_description: Write several small files of root's in one go
version_added: 0.2.0
description:
  - Does for a whole list what M(ansible.builtin.copy) with O(ansible.builtin.copy#module:content) does for one file, in
    one connection instead of two for each, which is most of what a run costs that changes nothing.
  - All files are looked at before the first is written. Each is replaced as a whole.
author:
  - The hpc.compute authors
options:
  files:
    description: The files. Their owner and group are those the module runs as.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: The file. Directories above it are made.
        type: path
        required: true
      content:
        description: Its text.
        type: str
      mode:
        description: Its mode, in octal digits.
        type: str
        default: "0644"
      validate:
        description:
          - A command that must succeed before the first file is written; V(%s) in it stands for the new text of this.
          - It is not run in check mode, where what it needs may not be installed yet.
        type: str
        default: ""
      state:
        description: V(absent) removes it.
        type: str
        choices: [present, absent]
        default: present
attributes:
  check_mode:
    description: Tells which files would be changed.
    support: full
  diff_mode:
    description: Shows the difference of each file.
    support: full
  platform:
    description: Target operating systems.
    support: full
    platforms: debian
"""

EXAMPLES = r"""
- name: Describe how the driver is loaded
  hpc.compute.text_files:
    files:
      - path: /etc/modprobe.d/site-nvidia.conf
        content: |
          blacklist nouveau
      - path: /usr/local/sbin/site-check
        mode: "0755"
        content: "{{ lookup('ansible.builtin.file', 'site-check', rstrip=false) }}"
"""

RETURN = r"""
changed_files:
  description: Files that were changed.
  returned: success
  type: list
  elements: str
  sample: [/etc/modprobe.d/site-nvidia.conf]
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.files.text import (
    Change,
    FileError,
    TextFile,
    changes,
    try_out,
    write,
)

_FILE = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str"},
    "mode": {"type": "str", "default": "0644"},
    "validate": {"type": "str", "default": ""},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"files": {"type": "list", "elements": "dict", "required": True, "options": _FILE}},
        supports_check_mode=True,
    )
    try:
        found = changes([_wanted(module, one) for one in module.params["files"]])
        if not module.check_mode:
            commands = {Path(one["path"]): one["validate"] for one in module.params["files"] if one["validate"]}
            for change in found:
                if change.wanted.path in commands:
                    try_out(change, commands[change.wanted.path], lambda words: module.run_command(list(words)))
            for change in found:
                write(change)
    except FileError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(found),
        changed_files=[str(change.wanted.path) for change in found],
        diff=[_diff(change) for change in found],
    )


def _wanted(module: AnsibleModule, one: dict[str, str]) -> TextFile:
    if (one["content"] is None) == (one["state"] == "present"):
        module.fail_json(msg=f"{one['path']}: expected a content for a file that is present, and none for one absent")
    try:
        mode = int(one["mode"], 8)
    except ValueError:
        module.fail_json(msg=f"{one['path']}: expected a mode in octal digits such as 0644, found {one['mode']!r}")
    return TextFile(Path(one["path"]), one["content"], mode)


def _diff(change: Change) -> dict[str, str]:
    wanted = change.wanted
    mode = "" if change.mode_before in (None, wanted.mode) else f" (mode {change.mode_before:04o})"
    return {
        "before_header": f"{wanted.path}{mode}",
        "after_header": f"{wanted.path}{f' (mode {wanted.mode:04o})' if mode else ''}",
        "before": change.before or "",
        "after": wanted.content or "",
    }


if __name__ == "__main__":
    main()
