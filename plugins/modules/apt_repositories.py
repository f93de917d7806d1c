#!/usr/bin/python
# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's face of apt's package repositories; the work is done in module_utils/apt."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_repositories
short_description: Make package repositories known to apt, each tried before it is written down
version_added: 0.2.0
description:
  - Writes a deb822 source, the key it is signed by and pins, in files of each repository's own whose names begin with
    C(hpc-compute-).
  - Before that apt fetches the lists of each new or changed repository in a folder apart. One that can't be reached, or
    is signed by another key, is an error that leaves nothing behind, so that apt stays usable. This is done in check
    mode too.
  - A repository that is as described is not asked anything.
author:
  - The hpc.compute authors
options:
  repositories:
    description:
      - The repositories. One that is no longer named stays; O(repositories[].state=absent) takes it away.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: A name for its files, of small letters, digits, dots and hyphens.
        type: str
        required: true
      uris:
        description: Its addresses.
        type: list
        elements: str
      suites:
        description: Its suites; for a flat repository folders that end in C(/).
        type: list
        elements: str
      components:
        description: Its components; none for a flat repository.
        type: list
        elements: str
      architectures:
        description: Architectures to take from it; all of the machine's if empty.
        type: list
        elements: str
      key:
        description: The key it is signed by, as ASCII-armoured text.
        type: str
        no_log: false
      key_file:
        description: The file with that key, on the control machine.
        type: path
        no_log: false
      key_url:
        description:
          - Where the machine can fetch that key, which is refused unless its fingerprint is
            O(repositories[].key_fingerprint).
          - A key that was fetched before and has the fingerprint is not fetched again.
        type: str
        no_log: false
      key_fingerprint:
        description:
          - The whole fingerprint of the key, or of each of the keys. No key may be without one that is listed here.
          - Required for O(repositories[].key_url), optional beside a key.
        type: raw
        no_log: false
      trusted:
        description: Takes an unsigned repository, only if all its addresses begin with C(file:).
        type: bool
      pin:
        description: Preferences of apt, see C(apt_preferences(5)).
        type: list
        elements: dict
        suboptions:
          packages:
            description: Names or globs of packages.
            type: list
            elements: str
            required: true
          pin:
            description: For example C(version 24.11.*), C(release o=ORIGIN) or C(origin "host").
            type: str
            required: true
          priority:
            description: A number; above 1000 it downgrades.
            type: int
            required: true
      state:
        description: V(absent) removes its files. Packages stay.
        type: str
        choices: [present, absent]
        default: present
attributes:
  check_mode:
    description: Tries the repositories and tells what would be written.
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
- name: Take packages from the site's repository
  hpc.compute.apt_repositories:
    repositories:
      - name: site
        uris: [https://apt.example.org/debian]
        suites: [trixie]
        components: [main]
        key_file: site.asc
"""

RETURN = r"""
files:
  description: Files that were changed.
  returned: success
  type: list
  elements: str
  sample: [/etc/apt/sources.list.d/hpc-compute-site.sources]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hpc.compute.plugins.module_utils.apt.glue import diff_of, machine_of
from ansible_collections.hpc.compute.plugins.module_utils.apt.repositories import put_in_place
from ansible_collections.hpc.compute.plugins.module_utils.apt.sources import RepositoryError, repository

_PIN = {
    "packages": {"type": "list", "elements": "str", "required": True},
    "pin": {"type": "str", "required": True},
    "priority": {"type": "int", "required": True},
}
_REPOSITORY = {
    "name": {"type": "str", "required": True},
    "uris": {"type": "list", "elements": "str"},
    "suites": {"type": "list", "elements": "str"},
    "components": {"type": "list", "elements": "str"},
    "architectures": {"type": "list", "elements": "str"},
    "key": {"type": "str", "no_log": False},
    "key_file": {"type": "path", "no_log": False},
    "key_url": {"type": "str", "no_log": False},
    "key_fingerprint": {"type": "raw", "no_log": False},
    "trusted": {"type": "bool"},
    "pin": {"type": "list", "elements": "dict", "options": _PIN},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module. The action plugin of the same name has read C(key_file)."""
    module = AnsibleModule(
        argument_spec={
            "repositories": {"type": "list", "elements": "dict", "required": True, "options": _REPOSITORY},
        },
        supports_check_mode=True,
    )
    try:
        described = [
            repository({key: value for key, value in one.items() if value is not None})
            for one in module.params["repositories"]
        ]
        changes = put_in_place(machine_of(module), described, module.check_mode)
    except RepositoryError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(changes), files=[str(change.path) for change in changes], diff=[diff_of(one) for one in changes]
    )


if __name__ == "__main__":
    main()
