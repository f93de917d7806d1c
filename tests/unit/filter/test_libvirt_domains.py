# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter libvirt_domains gives back what a domain can't carry."""

from __future__ import annotations

from ansible_collections.hpc.compute.plugins.filter.libvirt_domains import libvirt_domains


def test_an_address_is_for_whoever_hands_it_out() -> None:
    nodes = [{"name": f"n{number}", "base_image_path": "/srv/x.qcow2", "memory": 4096, "cpus": 2} for number in (1, 2)]
    nodes[0]["ip"] = "192.168.100.10"
    domains = libvirt_domains({"hpc": {"compute_nodes": nodes}})
    assert [(one["name"], one["ip"]) for one in domains] == [("n1", "192.168.100.10"), ("n2", "")]
