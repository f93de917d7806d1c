# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each mistake in nvidia_gpu_drivers' variables is told in words, before anything is touched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .conftest import Play

#: case: (variables, what the message must say)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no-place": ({"source": "local"}, r"nvidia_gpu_drivers_local names no place"),
    "no-folder": ({"source": "local", "local": "/nonexistent"}, r"no folder /nonexistent on the control machine"),
    "no-key": ({"source": "local", "local": "https://x.example/d"}, r"with which key it is signed is not said"),
    "suite": ({"source": "nvidia", "debian_suite": "trixie-backports"}, r"debian_suite is for .* that is nvidia"),
    "option": ({"module_options": {"NVreg X": 1}}, r"as its keys; not so: NVreg X\."),
    "option-lines": ({"module_options": {"A": "1\ninstall nvidia false"}}, r"as modprobe\.d takes it; not so: A\."),
    "option-blank": ({"module_options": {"A": "b c"}}, r"not so: A\."),
    "option-list": ({"module_options": {"A": [1], "B": None, "C": 1}}, r"not so: A, B\."),
    "no-power": ({"power_limit": -5}, r"power_limit is a number of watts such as 300, or 0 .*; it is -5\."),
    "one-clock": ({"application_clocks": "1593"}, r"application_clocks is MEMORY,GRAPHICS .*; it is '1593'\."),
    "high-low": ({"graphics_clocks": "1755,1200"}, r"graphics_clocks is one clock or LOWEST,HIGHEST .* '1755,1200'\."),
    "forgotten": ({"graphics_clocks": 1410, "persistence": False}, r"set nvidia_gpu_drivers_persistence to true"),
    "half-signed": ({"signing_key_file": __file__}, r"belong together; only one of them is given"),
    "unsigned": (
        {"signing_key_file": __file__, "signing_certificate_file": "/nonexistent.der"},
        r"on the control machine there is no file /nonexistent\.der\.",
    ),
    "no-time": ({"reboot_timeout": 0}, r"reboot_timeout is a number of seconds .*; it is 0\."),
}
GOOD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "numbers": {"graphics_clocks": 1410, "power_limit": "300", "branch": 550},
    "options": {"module_options": {"A": True, "B": 0, "C": "x=1;y=2", "D": '"a b"'}},
    "beside-the-play": {"source": "local", "local": "files/driver"},
    "signed": {"signing_key_file": __file__, "signing_certificate_file": __file__},
}
#: What can be told without the machine, so that it does not matter which one the tests run on.
_TASKS = [
    {
        "name": "Check",
        "ansible.builtin.include_role": {"name": "hpc.compute.nvidia_gpu_drivers", "tasks_from": "checks"},
    }
]


def _hosts(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {f"nvidia_gpu_drivers_{key}": value for key, value in given.items()} for name, given in cases.items()}


def test_mistakes_are_told(play: Play, tmp_path: Path) -> None:
    (tmp_path / "files/driver").mkdir(parents=True)
    said = play(_hosts({name: given for name, (given, _) in BAD.items()} | GOOD), _TASKS)
    told = dict(re.findall(r"(?m)^fatal: \[(\S+)\]: FAILED! => (.*)$", said))
    assert told.keys() == BAD.keys(), said
    for name, (_, pattern) in BAD.items():
        assert re.search(pattern, told[name]), (name, told[name])
