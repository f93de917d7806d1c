# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domains for compute nodes are what libvirt takes: by its schema, and by its test driver, which needs no daemon."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from rig import environment
from rig.paths import REPO, VENV
from rig.process import run

_CLUSTERS = {
    "hpc": {
        "compute_nodes": [
            {
                "name": "hpc-compute-01",
                "base_image_path": "build/packer/hpc-compute/hpc-compute/hpc-compute.qcow2",
                "memory": 65536,
                "cpus": 16,
                "disk_size": "100G",
                "gpu": {"passthrough": True, "pci_devices": ["0000:01:00.0", "0000:02:00.0"]},
            },
            {"name": "hpc-compute-02", "base_image_path": "/srv/hpc-compute.qcow2", "memory": 4096, "cpus": 2},
        ]
    }
}
_PLAYBOOK = """\
- name: Write the domains
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Write them with all that was said of them
      ansible.builtin.copy:
        content: "{{ clusters | hpc.compute.libvirt_domains(folder, kind, images) | to_json }}"
        dest: "{{ folder }}/domains.json"
        mode: "0644"
"""


@pytest.mark.parametrize("kind", ["kvm", "qemu"])
def test_libvirt_defines_them_and_qemu_img_makes_their_disks(tmp_path: Path, kind: str) -> None:
    images = tmp_path / "images"
    for node in _CLUSTERS["hpc"]["compute_nodes"]:
        image = images / str(node["base_image_path"]).lstrip("/")
        image.parent.mkdir(parents=True, exist_ok=True)
        run(["qemu-img", "create", "-q", "-f", "qcow2", image, "2G"])
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(_PLAYBOOK, encoding="utf-8")
    variables = {"clusters": _CLUSTERS, "folder": str(tmp_path), "kind": kind, "images": str(images)}
    variables["ansible_python_interpreter"] = str(VENV / "bin/python")
    words: list[str | Path] = ["--inventory", "localhost,", "--extra-vars", json.dumps(variables), playbook]
    run([VENV / "bin/ansible-playbook", *words], env=environment.variables(), cwd=REPO)

    domains = json.loads((tmp_path / "domains.json").read_text(encoding="utf-8"))
    assert [domain["name"] for domain in domains] == ["hpc-compute-01", "hpc-compute-02"]
    for domain in domains:
        xml = tmp_path / f"{domain['name']}.xml"
        xml.write_text(domain["xml"], encoding="utf-8")
        run(["virt-xml-validate", xml, "domain"])
        said = run(["virsh", "--connect", "test:///default", "define", xml]).stdout
        assert f"Domain '{domain['name']}' defined" in said
        command = [word.replace("/srv/", f"{images}/srv/") for word in shlex.split(domain["disk_command"])]
        run(command, cwd=Path("/"))
        made = json.loads(run(["qemu-img", "info", "--output=json", domain["disk"]]).stdout)
        assert made["virtual-size"] == 100 << 30
        assert Path(made["full-backing-filename"]).exists()


def test_libvirt_refuses_what_is_no_domain(tmp_path: Path) -> None:
    """The judges do judge."""
    xml = tmp_path / "bad.xml"
    xml.write_text("<domain type='kvm'><name>x</name><memory>many</memory></domain>", encoding="utf-8")
    assert run(["virt-xml-validate", xml, "domain"], check=False).returncode != 0
    assert run(["virsh", "--connect", "test:///default", "define", xml], check=False).returncode != 0
