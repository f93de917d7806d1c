# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Outputs of Debian 13's slurmd 24.11.5, recorded with fake_gpus.conf."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.slurm import control
from ansible_collections.hpc.compute.plugins.module_utils.slurm.binding import Binding
from ansible_collections.hpc.compute.plugins.module_utils.slurm.control import (
    Completed,
    Record,
    SlurmdError,
    SlurmdMissingError,
    compare,
    locate,
    parse_gres_report,
    read_gres,
    read_hardware,
    verify,
)
from unit.slurm.machines import part, whole

_RECORDED = Path(__file__).parent / "recorded"


def _recorded(name: str) -> str:
    return (_RECORDED / f"{name}.txt").read_text()


class _Slurmd:
    """Answers as recorded, and remembers what it was asked."""

    def __init__(self, rc: int, stdout: str = "", stderr: str = "") -> None:
        self.answer = Completed(rc, stdout, stderr)
        self.commands: list[Sequence[str]] = []

    def __call__(self, command: Sequence[str]) -> Completed:
        self.commands.append(command)
        return self.answer


def test_offered() -> None:
    report = parse_gres_report(_recorded("offered"))
    assert [one.type for one in report.offered] == ["h100", "3g.40gb", "1g.10gb"]
    assert report.offered[0] == Record("h100", "/dev/nvidia0", None, "0-1", "-1,0")
    assert report.offered[1].uuid == "MIG-bbb"
    assert report.offered[1].links is None
    assert (report.ignored, report.discarded) == ((), ())


def test_ignored() -> None:
    report = parse_gres_report(_recorded("captured"))
    assert [(one.type, one.uuid) for one in report.offered] == [("3g.40gb", "MIG-bbb"), ("h100", "MIG-ccc")]
    assert [one.file for one in report.ignored] == ["/dev/nvidia0"]


def test_discarded() -> None:
    report = parse_gres_report(_recorded("hyphen"))
    assert report.offered == ()
    assert [one.type for one in report.discarded] == ["h100-3g.40gb"]
    assert len(report.ignored) == 3


def test_untyped() -> None:
    assert [one.type for one in parse_gres_report(_recorded("untyped")).offered] == [None] * 3


def test_other_gres_are_passed_over() -> None:
    text = _recorded("offered").replace("GRES[gpu] Type:3g", "GRES[nic] Type:3g")
    assert len(parse_gres_report(text).offered) == 2


def test_a_gres_that_slurm_cannot_read() -> None:
    (error,) = [one for one in parse_gres_report(_recorded("no_count")).errors if "Bad GRES" in one]
    assert error.endswith("gpu:1g.10gb")


def test_no_library_is_said_in_plain_words() -> None:
    assert any("libnvidia-ml1" in one for one in parse_gres_report(_recorded("no_library")).errors)


def test_a_missing_device_file() -> None:
    line = "slurmd-n1: error: _set_gres_device_desc: stat(/dev/nvidia1): No such file or directory\n"
    assert parse_gres_report(line).errors == ("the device file /dev/nvidia1 can't be used: No such file or directory",)
    line = "slurmd-n1: error: /dev/nvidia1 is not a valid character or block device, fix your gres.conf\n"
    (error,) = parse_gres_report(line).errors
    assert error.startswith("the device file /dev/nvidia1 can't be used")


def test_read_gres_asks_for_uuids_and_by_name() -> None:
    slurmd = _Slurmd(0, stderr=_recorded("offered"))
    assert len(read_gres(slurmd, "/usr/sbin/slurmd", "n1").offered) == 3
    assert slurmd.commands == [["timeout", "--kill-after=5", "30", "/usr/sbin/slurmd", "-G", "-v", "-N", "n1"]]
    read_gres(slurmd)
    assert slurmd.commands[1][3:] == ["slurmd", "-G", "-v"]


def test_no_munge() -> None:
    with pytest.raises(SlurmdError, match=r"exit code 1: error: slurmd initialization failed\. munged is not running"):
        read_gres(_Slurmd(1, stderr=_recorded("no_munge")))


def test_failure_tells_the_last_line() -> None:
    with pytest.raises(SlurmdError, match="exit code 1: fatal: _foreach_slurm_conf: Some gpu GRES"):
        read_gres(_Slurmd(1, stderr=_recorded("mixed")))
    with pytest.raises(SlurmdError, match="exit code 6: nothing"):
        read_gres(_Slurmd(6))


def test_no_plugin() -> None:
    with pytest.raises(SlurmdError, match="slurm-wlm-nvml-plugin"):
        read_gres(_Slurmd(1, stderr="slurmd-n1: error: cannot find gpu plugin for gpu/nvml\n"))


def test_no_configuration_ends_by_timeout() -> None:
    with pytest.raises(SlurmdError, match=r"did not end within 30 s.*slurm\.conf.*DNS SRV lookup failed"):
        read_gres(_Slurmd(124, stderr="slurmd: error: fetch_config: DNS SRV lookup failed\n"))


def test_hardware() -> None:
    slurmd = _Slurmd(0, stdout=_recorded("hardware"))
    assert read_hardware(slurmd).cpus == 2
    assert slurmd.commands[0][3:] == ["slurmd", "-C"]
    with pytest.raises(SlurmdError, match="expected a line NodeName="):
        read_hardware(_Slurmd(0, stdout="nothing"))


def test_locate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "slurmd"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    assert locate(str(command)) == str(command)
    with pytest.raises(SlurmdMissingError, match="expected the command no-slurmd"):
        locate("no-slurmd")
    # an ordinary user's search path has no sbin
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/usr/sbin/{name}" if path else None)
    assert control.locate("slurmd") == "/usr/sbin/slurmd"


_BINDINGS = [
    Binding("h100", whole(0)),
    Binding("3g.40gb", part(1, 0, "3g.40gb")),
]


def _report_of(*lines: str) -> control.GresReport:
    head = "slurmd-n1: Gres GPU plugin: Final merged GRES list:\n"
    return parse_gres_report(head + "".join(f"slurmd-n1:     {line}\n" for line in lines))


def _line(kind: str, file: str, uuid: str) -> str:
    return f"GRES[gpu] Type:{kind} Count:1 Cores(2):0-1  Links:(null) Flags:HAS_FILE File:{file} UniqueId:{uuid}"


_WHOLE = _line("h100", "/dev/nvidia0", "(null)")
_SLICE = _line("3g.40gb", _BINDINGS[1].device.file, "MIG-1-0")


def test_agreement() -> None:
    assert compare(_BINDINGS, _report_of(_WHOLE, _SLICE)) == []


def test_a_device_that_slurmd_does_not_offer() -> None:
    (difference,) = compare(_BINDINGS, _report_of(_SLICE))
    assert difference == "expected type h100 with UUID (none) at /dev/nvidia0, slurmd does not offer it"


def test_a_device_too_many() -> None:
    (difference,) = compare(_BINDINGS, _report_of(_WHOLE, _SLICE, _line("t4", "/dev/nvidia9", "(null)")))
    assert difference == "slurmd offers type t4 with UUID (none) at /dev/nvidia9, expected nothing there"


def test_another_uuid() -> None:
    (difference,) = compare(_BINDINGS, _report_of(_WHOLE, _SLICE.replace("MIG-1-0", "MIG-old")))
    assert "expected type 3g.40gb with UUID MIG-1-0 at" in difference
    assert "slurmd has type 3g.40gb with UUID MIG-old" in difference


def test_errors_and_discarded_types_are_differences() -> None:
    differences = compare(_BINDINGS, parse_gres_report(_recorded("hyphen")))
    assert "slurmd finds no device for the configured type h100-3g.40gb" in differences
    assert any("libnvidia-ml1" in one for one in differences)


def test_verify_is_read_and_compare() -> None:
    head = "slurmd-n1: Gres GPU plugin: Final merged GRES list:\n"
    slurmd = _Slurmd(0, stderr=head + _WHOLE + "\n" + _SLICE + "\n")
    assert verify(slurmd, _BINDINGS, node_name="n1") == []
    assert verify(slurmd, _BINDINGS[:1]) != []


def test_static_mode_has_no_merged_list() -> None:
    """What slurmd -G -v says with AutoDetect=off, shortened."""
    report = parse_gres_report(_recorded("static"))
    assert report.offered == (
        Record("big", "/dev/nvidia0", None, "0-7", "-1"),
        Record("small", "/dev/nvidia1,/dev/nvidia-caps/nvidia-cap10,/dev/nvidia-caps/nvidia-cap11", None, None, None),
    )
    assert (report.ignored, report.errors) == ((), ())


def test_static_mode_is_compared_without_uuids_but_in_order() -> None:
    bindings = [Binding("big", whole(0)), Binding("small", part(0, 0, "1g.10gb"))]
    bindings[1] = Binding("small", replace(bindings[1].device, files=("/dev/nvidia1", *bindings[1].device.files[1:])))
    report = parse_gres_report(_recorded("static"))
    assert compare(bindings, report, static=True) == []
    (difference,) = compare(bindings[::-1], report, static=True)
    assert difference.startswith("expected the devices in the order /dev/nvidia1,/dev/nvidia-caps/nvidia-cap10,")
    assert "with UUID MIG-0-0" in compare(bindings, report)[0]
    slurmd = _Slurmd(0, stderr=_recorded("static"))
    assert verify(slurmd, bindings, static=True) == []
