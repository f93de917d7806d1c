# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters for Apptainer's files: what Ansible gets to see."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.filter.apptainer import FilterModule

_FILTERS = FilterModule().filters()


def test_conf() -> None:
    conf = _FILTERS["apptainer_conf"]
    assert conf({"allow setuid": False}, "1.5.4") == {"problems": [], "text": "allow setuid = no\n"}
    wrong = conf({"allow suid": False})
    assert wrong["text"] == ""
    assert "did you mean 'allow setuid'?" in wrong["problems"][0]
    with pytest.raises(AnsibleFilterError, match="expected a mapping"):
        conf(["allow setuid"])
    with pytest.raises(AnsibleFilterError, match="expected a version"):
        conf({}, "newest")


def test_ecl() -> None:
    ecl = _FILTERS["apptainer_ecl"]
    assert ecl([]) == {"problems": [], "text": "activated = false\n"}
    assert ecl([{}])["text"] == ""
    assert ecl([{}])["problems"]
