# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for the packages of NVIDIA's repository: its names, versions and conflicts, and a real DKMS module.

The module does nothing but be built: a few lines against the real headers of a real kernel, by the real dkms, in
seconds instead of minutes. Maintainer scripts are those that Debian's dh_dkms writes.
"""

from __future__ import annotations

from pathlib import Path

from integration.apt_repository import make_deb

_SOURCE = """\
#include <linux/module.h>
MODULE_LICENSE("GPL");
MODULE_VERSION("{version}");
MODULE_DESCRIPTION("stand-in for tests, drives nothing");
static int __init begin(void) {{ return 0; }}
static void __exit end(void) {{ }}
module_init(begin);
module_exit(end);
"""
#: A call that a newer kernel's header no longer knows, which is what really breaks drivers.
_BROKEN = "int broken(void *device) { return pci_resize_resource(device, 1); }\n"
_ERROR_IF = "#ifdef {macro}\n{code}#endif\n"
_DKMS_CONF = """\
PACKAGE_NAME="{module}"
PACKAGE_VERSION="{version}"
BUILT_MODULE_NAME[0]="nvidia"
DEST_MODULE_NAME[0]="{module}"
DEST_MODULE_LOCATION[0]="/updates/dkms"
MAKE[0]="make -C ${{kernel_source_dir}} M=${{dkms_tree}}/{module}/{version}/build modules"
CLEAN="true"
AUTOINSTALL="yes"
BUILD_EXCLUSIVE_CONFIG="!CONFIG_PREEMPT_RT"
"""
_POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then /usr/lib/dkms/common.postinst {module} {version} /usr/share/{module}-dkms "" $2; fi
"""
_PRERM = """\
#!/bin/sh
set -e
case "$1" in
remove | upgrade | deconfigure)
    if [ "$(dkms status -m {module} -v {version})" ]; then dkms remove -m {module} -v {version} --all; fi ;;
esac
"""
_UNIT = "[Unit]\nDescription=stand-in for {name}\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
_INSTALL = "[Install]\nWantedBy=multi-user.target\n"


def kernel_modules(
    folder: Path, package: str, version: str, module: str = "nvidia", broken_for: str = "", depends: str = ""
) -> Path:
    """The package with the module's source. *broken_for*: a macro of the kernels it does not build for."""
    upstream = version.rpartition("-")[0]
    source = f"usr/src/{module}-{upstream}"
    text = _SOURCE.format(version=upstream)
    if broken_for:
        text = "#include <linux/pci.h>\n" + text + _ERROR_IF.format(macro=broken_for, code=_BROKEN)
    names = {"module": module, "version": upstream}
    return make_deb(
        folder,
        package,
        version,
        architecture="amd64",
        fields={"Depends": f"dkms{', ' if depends else ''}{depends}"},
        files={
            f"{source}/nvidia.c": text,
            f"{source}/Kbuild": "obj-m := nvidia.o\n",
            f"{source}/dkms.conf": _DKMS_CONF.format(**names),
        },
        scripts={"postinst": _POSTINST.format(**names), "prerm": _PRERM.format(**names)},
    )


def nvidia_stack(folder: Path, version: str, broken_for: str = "") -> list[Path]:
    """Everything that the role installs of NVIDIA's repository, in one version (``580.126.09-1``)."""
    upstream = version.rpartition("-")[0]
    branch = upstream.partition(".")[0]
    same = f"(= {version})"
    made = [
        kernel_modules(folder, "nvidia-kernel-open-dkms", version, broken_for=broken_for),
        kernel_modules(folder, "nvidia-kernel-dkms", version, broken_for=broken_for),
        make_deb(folder, "libcuda1", version, architecture="amd64"),
        make_deb(folder, "libnvidia-ml1", version, architecture="amd64"),
        make_deb(
            folder,
            "nvidia-driver-cuda",
            version,
            architecture="amd64",
            fields={"Depends": f"libcuda1 {same}, libnvidia-ml1 {same}", "Conflicts": "nvidia-smi"},
            files={
                "usr/bin/nvidia-smi": '#!/bin/sh\n# stand-in: notes what it was told\necho "$@" >>/run/nvidia-smi.log\n'
            },
        ),
        make_deb(
            folder,
            "nvidia-modprobe",
            version,
            architecture="amd64",
            files={
                "usr/bin/nvidia-modprobe": '#!/bin/sh\n# stand-in: as above\necho "$@" >>/run/nvidia-modprobe.log\n'
            },
        ),
        make_deb(
            folder,
            "nvidia-driver-pinning-" + branch,
            f"{branch}-1",
            files={
                "etc/apt/preferences.d/nvidia-driver-pin": (
                    f"Package: *nvidia*\nPin: version {branch}.*\nPin-Priority: 1000\n"
                )
            },
        ),
        make_deb(folder, "libnvidia-nscq", version, architecture="amd64"),
    ]
    for name in ("nvidia-persistenced", "nvidia-fabricmanager"):
        unit = _UNIT.format(name=name) + _INSTALL
        made.append(
            make_deb(
                folder, name, version, architecture="amd64", files={f"usr/lib/systemd/system/{name}.service": unit}
            )
        )
    return made


def container_toolkit(folder: Path, version: str) -> Path:
    """The base of NVIDIA's container toolkit with its units; the condition is NVIDIA's own."""
    condition = "ExecCondition=/usr/bin/grep -qE '/(nvidia|nvidia-current)[.]ko' /lib/modules/%v/modules.dep\n"
    unit = _UNIT.format(name="nvidia-cdi-refresh").replace("RemainAfterExit=yes\nExecStart=/bin/true\n", condition)
    unit += "ExecStart=/bin/sh -c 'echo refreshed >>/run/cdi.log'\n" + _INSTALL
    path = "[Path]\nPathChanged=/lib/modules/%v/modules.dep\n" + _INSTALL
    return make_deb(
        folder,
        "nvidia-container-toolkit-base",
        version,
        architecture="amd64",
        files={
            "usr/lib/systemd/system/nvidia-cdi-refresh.service": unit,
            "usr/lib/systemd/system/nvidia-cdi-refresh.path": path,
        },
    )
