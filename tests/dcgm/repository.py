# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A flat apt repository with stand-ins for NVIDIA's DCGM packages: true names, dependencies, units and conffiles."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

_HERE = Path(__file__).resolve().parent
DCGM = "1:4.6.1-1"
EXPORTER = "4.8.2-1"
_HOSTENGINE_UNIT = """\
[Unit]
Description=NVIDIA DCGM service
Wants=nvidia-gpu-reset.target
After=nvidia-gpu-reset.target

[Service]
Environment=DCGM_HOME_DIR=/var/log/nvidia-dcgm
ExecStart=/usr/bin/nv-hostengine -n --service-account nvidia-dcgm
Restart=on-abort

[Install]
WantedBy=multi-user.target
Alias=dcgm.service
"""
_EXPORTER_UNIT = """\
[Unit]
Description=NVIDIA DCGM-exporter service
Wants=nvidia-dcgm.service
After=nvidia-dcgm.service

[Service]
User=root
PrivateTmp=false
StandardOutput=append:/var/log/dcgm-exporter.log
StandardError=append:/var/log/dcgm-exporter.log
ExecStart=/usr/bin/dcgm-exporter -f /etc/dcgm-exporter/default-counters.csv
Restart=on-abort

[Install]
WantedBy=multi-user.target
"""
_PACKAGE = "usr/lib/dcgm-stand-in/dcgm"
_UNITS = "usr/lib/systemd/system"
_LIBS = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class Package:
    """*files*: text, or a file whose text it is."""

    name: str
    version: str
    depends: str
    files: dict[str, str | Path] = field(default_factory=dict)
    conffiles: tuple[str, ...] = ()
    extra: str = ""
    postinst: str = ""


def _program(module: str) -> str:
    return f'#!/bin/sh\nPYTHONPATH=/usr/lib/dcgm-stand-in exec python3 -m dcgm.{module} "$@"\n'


def packages(exporter: str = EXPORTER) -> list[Package]:
    """NVIDIA's own depend on libc6 where these depend on python3; python3-pynvml is in the test's node already."""
    same = f"datacenter-gpu-manager-4-core (= {DCGM})"
    found = [
        Package(
            "datacenter-gpu-manager-4-core",
            DCGM,
            "libc6, lshw, python3",
            {
                "usr/bin/nv-hostengine": _program("hostengine"),
                f"{_PACKAGE}/hostengine.py": _HERE / "hostengine.py",
                f"{_PACKAGE}/fields.py": _HERE / "fields.py",
                f"{_UNITS}/nvidia-dcgm.service": _HOSTENGINE_UNIT,
                f"{_LIBS}/libdcgm.so.4": "a stand-in\n",
            },
            extra="Conflicts: datacenter-gpu-manager\n",
            postinst="getent passwd nvidia-dcgm >/dev/null || useradd --system --no-create-home nvidia-dcgm\n",
        ),
        Package("datacenter-gpu-manager-4-proprietary", DCGM, same, {f"{_LIBS}/libdcgmmoduleprofiling.so.4": "\n"}),
        Package(
            "datacenter-gpu-manager-exporter",
            exporter,
            "libc6, datacenter-gpu-manager-4-core, python3, python3-bcrypt, python3-yaml",
            {
                "usr/bin/dcgm-exporter": _program("exporter"),
                f"{_PACKAGE}/exporter.py": _HERE / "exporter.py",
                f"{_UNITS}/nvidia-dcgm-exporter.service": _EXPORTER_UNIT,
                "etc/dcgm-exporter/default-counters.csv": "DCGM_FI_DEV_GPU_TEMP, gauge, GPU temperature (in C).\n",
            },
            conffiles=("/etc/dcgm-exporter/default-counters.csv",),
        ),
        # What must never come from here: Debian has a package by this name, and this one is newer.
        Package("libcuda1", "595.91.07-1", "libc6", {"usr/share/doc/libcuda1/from-nvidia": "\n"}),
    ]
    for cuda in (11, 12, 13):
        found += [
            Package(
                f"datacenter-gpu-manager-4-cuda{cuda}",
                DCGM,
                same,
                {f"usr/libexec/dcgm/cuda{cuda}": "\n"},
                extra="Recommends: libnuma1\n",
            ),
            Package(
                f"datacenter-gpu-manager-4-proprietary-cuda{cuda}",
                DCGM,
                f"datacenter-gpu-manager-4-proprietary (= {DCGM})",
                {f"usr/libexec/dcgm/proprietary-cuda{cuda}": "\n"},
            ),
        ]
    return found


def build(folder: Path, exporter: str = EXPORTER) -> None:
    """Make the repository in *folder*: the packages and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for package in packages(exporter):
        control = _control(package)
        deb = folder / f"{package.name}_{package.version.partition(':')[2] or package.version}_amd64.deb"
        _pack(package, control, deb)
        data = deb.read_bytes()
        index.append(
            f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
    (folder / "Packages").write_text("\n".join(index))


def _control(package: Package) -> str:
    return (
        f"Package: {package.name}\nVersion: {package.version}\nArchitecture: amd64\nSection: utils\n"
        f"Maintainer: The hpc.compute authors <nobody@localhost>\nDepends: {package.depends}\n{package.extra}"
        "Description: stand-in for NVIDIA's package of this name, for tests\n"
    )


def _pack(package: Package, control: str, deb: Path) -> None:
    tree = deb.with_suffix(".tree")
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(control)
    if package.conffiles:
        (tree / "DEBIAN/conffiles").write_text("".join(f"{path}\n" for path in package.conffiles))
    if package.postinst:
        script = tree / "DEBIAN/postinst"
        script.write_text(f"#!/bin/sh\nset -e\n{package.postinst}")
        script.chmod(0o755)
    for path, content in package.files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content.read_text() if isinstance(content, Path) else content)
        target.chmod(0o755 if path.startswith("usr/bin/") else 0o644)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, deb], check=True, stdout=subprocess.DEVNULL
    )
    shutil.rmtree(tree)
