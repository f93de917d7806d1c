# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role beegfs_client, as Ansible calls them."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.filter.beegfs_client import FilterModule

FILTERS = FilterModule().filters()


def test_the_release_tells_packages_and_whether_they_are_there() -> None:
    told = FILTERS["beegfs_client_release"]("8.3")
    assert told["packages"] == ["beegfs-client-dkms", "beegfs-tools"]
    assert (told["directory"], told["version_glob"], told["helperd"], told["satisfied"]) == (
        *("beegfs_8.3", "*8.3.*", False, False),
    )
    assert "beegfs-storage" in told["server_packages"]
    installed = dict.fromkeys(["beegfs-client-dkms", "beegfs-helperd", "beegfs-utils", "more"], "20:7.4.7")
    assert FILTERS["beegfs_client_release"]("7.4", ["more"], installed)["satisfied"]
    assert not FILTERS["beegfs_client_release"]("7.4", ["more"], installed, True)["satisfied"]
    with pytest.raises(AnsibleFilterError, match="beegfs_client_release: beegfs_client_version: expected a series"):
        FILTERS["beegfs_client_release"]("x")


def test_problems_are_sentences() -> None:
    machine = {"packages": {}, "kernels": ["6.12.1-amd64"]}
    good = {"version": "8.3", "mounts": [{"path": "/b", "mgmtd_host": "m"}], "authentication": False}
    assert FILTERS["beegfs_client_problems"](good, machine) == []
    assert len(FILTERS["beegfs_client_problems"]({**good, "mounts": [{}]}, machine)) == 2
    with pytest.raises(AnsibleFilterError, match="expected two mappings"):
        FILTERS["beegfs_client_problems"]([], machine)


def test_the_options_of_a_build_are_a_file() -> None:
    assert FILTERS["beegfs_client_build_options"]({"BEEGFS_NO_RDMA": 1}).splitlines()[1:] == ["BEEGFS_NO_RDMA=1"]
    with pytest.raises(AnsibleFilterError, match="expected a mapping"):
        FILTERS["beegfs_client_build_options"]("x")
