# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of who may have signed an image, and where it lies: Apptainer's ECL, ``/etc/apptainer/ecl.toml``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .public_key import fingerprint

#: whitelist: signed by at least one of the keys; whitestrict: by all of them; blacklist: by none.
MODES = ("whitelist", "whitestrict", "blacklist")
_REQUIRED = {"tag", "directory", "fingerprints"}


def problems(groups: object) -> list[str]:
    """All that is wrong with the list of groups, a sentence each."""
    if isinstance(groups, str) or not isinstance(groups, Sequence):
        return [f"ecl.toml: expected a list of groups, found {groups!r}"]
    found = []
    for number, group in enumerate(groups, 1):
        where = f"ecl.toml, group {number}"
        if not isinstance(group, Mapping):
            found.append(f"{where}: expected a mapping with {', '.join(sorted(_REQUIRED))}, found {group!r}")
            continue
        if set(group) - {"mode"} != _REQUIRED:
            wanted = ", ".join(sorted(_REQUIRED))
            found.append(f"{where}: expected the keys {wanted} and perhaps mode, found {sorted(group)}")
            continue
        found += [f"{where}: {text}" for text in _wrong(group)]
    whole = [group for group in groups if isinstance(group, Mapping)]
    for key in ("tag", "directory"):
        values = [group.get(key) for group in whole]
        twice = {str(value) for value in values if value is not None and values.count(value) > 1}
        found += [f"ecl.toml: expected each {key} once, found {value!r} in several groups" for value in sorted(twice)]
    return found


def key_problems(groups: Sequence[Mapping[str, object]], keys: Sequence[str]) -> list[str]:
    """What is wrong with the public keys for the groups: with one missing Apptainer would refuse every image."""
    found, have = [], set()
    for number, key in enumerate(keys, 1):
        try:
            have.add(fingerprint(key))
        except ValueError as error:
            found.append(f"key {number} of the ECL: {error}")
    named = {str(one).upper() for group in groups for one in _fingerprints(group)}
    if found:
        return found
    return [
        f"ecl.toml: expected the public key of every fingerprint, found none for {one}" for one in sorted(named - have)
    ]


def render(groups: Sequence[Mapping[str, object]]) -> str:
    """The file; with no group the policy is off."""
    lines = [f"activated = {'true' if groups else 'false'}"]
    for group in groups:
        lines += [
            "",
            "[[execgroup]]",
            f'  tagname = "{group["tag"]}"',
            f'  mode = "{_mode(group)}"',
            f'  dirpath = "{group["directory"]}"',
            "  keyfp = [{}]".format(", ".join(f'"{str(one).upper()}"' for one in _fingerprints(group))),
        ]
    return "".join(f"{line}\n" for line in lines)


def _fingerprints(group: Mapping[str, object]) -> Sequence[object]:
    fingerprints = group["fingerprints"]
    if isinstance(fingerprints, str) or not isinstance(fingerprints, Sequence):
        raise TypeError(f"fingerprints: expected a list, found {fingerprints!r}")
    return fingerprints


def _mode(group: Mapping[str, object]) -> object:
    return group.get("mode", MODES[0])


def _wrong(group: Mapping[str, object]) -> list[str]:
    found = []
    if not re.fullmatch(r"[\w.-]+", str(group["tag"])):
        found.append(f"expected as tag letters, digits, '.', '_' and '-', found {group['tag']!r}")
    if _mode(group) not in MODES:
        found.append(f"expected as mode {', '.join(MODES)}, found {_mode(group)!r}")
    directory = group["directory"]
    if not isinstance(directory, str) or not re.fullmatch(r'(/[^/"\\\x00-\x1f]+)+', directory):
        found.append(f"expected as directory an absolute path without a slash at its end, found {directory!r}")
    fingerprints = group["fingerprints"]
    if isinstance(fingerprints, str) or not isinstance(fingerprints, Sequence) or not fingerprints:
        return [*found, f"expected as fingerprints a list with at least one key, found {fingerprints!r}"]
    return found + [
        f"expected as fingerprint 40 hexadecimal digits (apptainer key list shows them), found {one!r}"
        for one in fingerprints
        if not re.fullmatch(r"[0-9A-Fa-f]{40}", str(one))
    ]
