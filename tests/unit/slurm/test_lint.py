# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.gpu.model import Inventory
from ansible_collections.hpc.compute.plugins.module_utils.slurm.gres_text import parse_gres_conf
from ansible_collections.hpc.compute.plugins.module_utils.slurm.lint import Finding, lint
from ansible_collections.hpc.compute.plugins.module_utils.slurm.plan import GresMode, plan_gres
from unit.slurm.machines import A100, gpu, machine

_H100 = "nvidia_h100_80gb_hbm3"
_CAP = "/dev/nvidia0,/dev/nvidia-caps/nvidia-cap10,/dev/nvidia-caps/nvidia-cap11"
_HARDWARE = "CPUs=16 Boards=1 SocketsPerBoard=2 CoresPerSocket=8 ThreadsPerCore=1"


def _lint(
    gres: str,
    gres_conf: str = "AutoDetect=nvml",
    machine: Inventory | None = None,
    *,
    image: bool = False,
    nvml_plugin: bool | None = None,
) -> list[Finding]:
    line = f"NodeName=n1 {_HARDWARE}{f' Gres={gres}' if gres else ''}\n"
    return lint(line, gres_conf, {} if machine is None else {"n1": machine}, image=image, nvml_plugin=nvml_plugin)


def _codes(findings: list[Finding]) -> list[str]:
    return [one.code for one in findings]


def test_what_the_collection_writes_is_in_order() -> None:
    cut = machine(gpu(0), gpu(1, A100, profiles=("1g.5gb", "1g.5gb+me")))
    for mode in (GresMode(), GresMode("off", {"*_1g.5gb": "a100-1g.5gb"})):
        plan = plan_gres(cut, mode=mode)
        assert _lint(plan.gres, plan.text, cut, nvml_plugin=True) == []
        assert _lint(plan.gres, plan.text) == []
    shared = machine(gpu(0), gpu(1))
    plan = plan_gres(shared, mode=GresMode(shared={"shard": {"*": 4}}))
    assert _lint(plan.gres, plan.text, shared) == []
    plan = plan_gres(machine())
    assert _lint(plan.gres, plan.text, machine()) == []


def test_hyphens_are_found_without_and_with_the_machine() -> None:
    (finding,) = _lint("gpu:a100-1g.5gb:2")
    assert (finding.code, finding.severity, finding.nodes) == ("hyphen_type", "error", "n1")
    assert "write gpu:nvidia_..._1g.5gb:2" in finding.message
    assert _codes(_lint("gpu:nvidia_a100-sxm4-40gb:2")) == []
    cut = machine(gpu(0, A100, profiles=("1g.5gb",)))
    (finding,) = _lint("gpu:a100-1g.5gb:1", machine=cut)
    assert finding.code == "hyphen_type"
    assert "write nvidia_a100_1g.5gb" in finding.message


def test_names_that_slurm_gives_to_another_device() -> None:
    mixed = machine(gpu(0), gpu(1, profiles=("3g.40gb", "1g.10gb")))
    assert "substring_capture" in _codes(_lint("gpu:h100:1,gpu:3g.40gb:1", machine=mixed))
    media = machine(gpu(0, A100, profiles=("1g.5gb", "1g.5gb+me")))
    assert "me_swallowed" in _codes(_lint("gpu:a100_1g.5gb:1", machine=media))
    assert _codes(_lint("gpu:quadro:1", machine=machine(gpu(0)))) == ["unknown_type"]


def test_numbers_that_do_not_match() -> None:
    two = machine(gpu(0), gpu(1))
    assert _codes(_lint(f"gpu:{_H100}:3", machine=two)) == ["count_mismatch"]
    assert _codes(_lint(f"gpu:{_H100}:1", machine=two)) == ["unlisted_device", "links_too_long"]
    assert _codes(_lint("gpu")) == ["no_count"]
    assert _codes(_lint("gpu:1,gpu:a:1")) == ["mixed_types"]
    assert _codes(_lint("gpu:2g.48gb:1,gpu:3g.47gb:1")) == ["type_clash"]
    assert _codes(_lint("gpu:1g.5gb")) == ["bad_gres"]


def test_the_machine_itself() -> None:
    assert "mig_empty" in _codes(_lint("", machine=machine(gpu(0, profiles=()))))
    assert _codes(_lint("gpu:h100:1", nvml_plugin=False)) == ["nvml_plugin_missing"]
    assert _codes(_lint("", nvml_plugin=False)) == []
    assert _codes(_lint("gpu:h100:1", "AutoDetect=nvidia")) == ["nvidia_detection"]
    order = machine(gpu(0, profiles=("1g.10gb",)), gpu(1), gpu(2))
    assert _codes(_lint(f"gpu:{_H100}:2,gpu:{_H100}_1g.10gb:1", machine=order)) == ["links_misplaced"]


@pytest.mark.parametrize(
    ("cores", "codes", "advice"),
    [
        ("0-7", [], ""),
        ("8-15", [], ""),
        ("0-15", [], ""),
        ("0-3", ["cores_not_sockets"], "write Cores=0-7"),
        ("4-11", ["cores_not_sockets"], "write Cores=0-15"),
        ("16-23", ["cores_beyond"], "cores below 16"),
        ("near", ["bad_cores"], "found Cores=near"),
    ],
)
def test_cores(cores: str, codes: list[str], advice: str) -> None:
    findings = _lint("gpu:h100:1", f"AutoDetect=off\nName=gpu Type=h100 File=/dev/nvidia0 Cores={cores}\n")
    assert _codes(findings) == codes
    assert all(advice in one.message for one in findings)
    bare = lint("NodeName=n1 Gres=gpu:h100:1", f"Name=gpu Type=h100 File=/dev/nvidia0 Cores={cores}")
    assert _codes(bare) == (codes if codes == ["bad_cores"] else []), "sockets are not known"


def test_static_numbers() -> None:
    four = "AutoDetect=off\nName=gpu Type=a File=/dev/nvidia[0-3]\n"
    assert _codes(_lint("gpu:a:4", four)) == []
    assert _codes(_lint("gpu:4", four)) == []
    assert _codes(_lint("gpu:a:5", four)) == ["count_mismatch"]
    assert _codes(_lint("gpu:a:3", four)) == ["unlisted_device"]
    assert _codes(_lint("gpu:b:4", four)) == ["count_mismatch", "unlisted_device"]
    assert _codes(_lint("gpu:a:1", "")) == ["no_devices"]
    assert _codes(_lint("gpu:a:1", "Include /etc/hpc-compute/gres.conf")) == []
    assert _codes(_lint("gpu:a:2", "Name=gpu Type=a Count=2")) == ["no_devices"]


def test_static_links() -> None:
    def codes(first: str, second: str) -> list[str]:
        lines = [f"Name=gpu Type=a File=/dev/nvidia{place} Links={one}" for place, one in enumerate((first, second))]
        return _codes(_lint("gpu:a:2", "\n".join(lines)))

    assert codes("-1,4", "4,-1") == []
    assert codes("-1,4", "4,0") == ["links_without_self"]
    assert codes("-1,4,0", "4,-1") == ["links_too_long"]


def test_files_of_another_boot() -> None:
    conf = f"AutoDetect=off\nName=gpu Type=s MultipleFiles={_CAP}\n"
    (finding,) = _lint("gpu:s:1", conf)
    assert (finding.code, finding.severity, finding.nodes) == ("capability_files_baked", "warning", "")
    (finding,) = _lint("gpu:s:1", conf, image=True)
    assert finding.severity == "error"
    marked = f"# gpu-layout.service writes this file anew.\n{conf}"
    assert _codes(_lint("gpu:s:1", marked)) == []
    assert _codes(_lint("gpu:s:1", marked, image=True)) == ["capability_files_baked"]
    assert _codes(_lint("gpu:s:1", marked, machine(gpu(0, profiles=("1g.10gb",))))) == []
    assert _codes(_lint("gpu:s:1", marked, machine(gpu(0, minor=1, profiles=("1g.10gb",))))) == ["stale_files"]


def test_lines_beside_detection() -> None:
    conf = "AutoDetect=nvml\nName=gpu Type=mine File=/dev/nvidia0\n"
    assert _codes(_lint("gpu:mine:1", conf)) == ["explicit_under_nvml"]


def test_sharing() -> None:
    conf = "AutoDetect=nvml\nName=shard Count=4 File=/dev/nvidia0\nName=shard Count=4 File=/dev/nvidia1\n"
    assert _codes(_lint("gpu:h100:2,shard:8", conf)) == []
    assert _codes(_lint("gpu:h100:2,shard:9", conf)) == ["count_mismatch"]
    assert _codes(_lint("gpu:h100:2,mps:100", "AutoDetect=nvml")) == ["count_mismatch"]
    several = "AutoDetect=nvml\nName=mps Count=200 File=/dev/nvidia[0-1]"
    assert _codes(_lint("gpu:h100:2,mps:200", several)) == ["shared_file_list"]
    cut = machine(gpu(0), gpu(1, profiles=("1g.10gb",)))
    assert "shared_slices" in _codes(_lint(f"gpu:{_H100}:1,gpu:{_H100}_1g.10gb:1,shard:8", conf, cut))


def test_nodes_with_the_same_fault_share_a_finding() -> None:
    conf = "NodeName=n[1-3],m1 Gres=gpu:a100-1g.5gb:1\nNodeName=x Gres=gpu:a:1\n"
    text = (
        "NodeName=n[1-3],m1 AutoDetect=nvml\nNodeName=x AutoDetect=off\nNodeName=x Name=gpu Type=a File=/dev/nvidia0\n"
    )
    (finding,) = lint(conf, text)
    assert finding.nodes == "m1,n[1-3]"


def test_errors_come_first() -> None:
    findings = lint("NodeName=a Gres=gpu\nNodeName=b Gres=gpu:a100-1g.5gb:1", "AutoDetect=nvml")
    assert [one.severity for one in findings] == ["error", "warning"]


def test_lines_for_nodes() -> None:
    text = parse_gres_conf("AutoDetect=nvml\nNodeName=b AutoDetect=Off\nNodeName=b Name=gpu File=/dev/nvidia0 # x\n")
    assert [text.autodetect(node) for node in "abc"] == ["nvml", "off", "nvml"]
    assert [len(text.of(node)) for node in "abc"] == [0, 1, 0]
    assert parse_gres_conf("").autodetect("a") is None
    assert parse_gres_conf("NodeName=b AutoDetect=nvml").autodetect("a") is None
    (line,) = parse_gres_conf("Name=gpu Count=x").lines
    assert (line.count, line.slice, line.files) == (1, False, ())


def test_lists_that_cannot_be_read_are_told_with_the_line() -> None:
    with pytest.raises(ValueError, match=r"gres\.conf, line 2: expected"):
        parse_gres_conf("\nNodeName=n[1- Name=gpu\n")
    with pytest.raises(ValueError, match=r"gres\.conf, line 1: expected"):
        parse_gres_conf("Name=gpu File=/dev/nvidia[a-b]\n")
