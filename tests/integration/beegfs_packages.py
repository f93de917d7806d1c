# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""BeeGFS's packages for tests: the true names, dependencies, files, units and conffiles of 7.4 and 8, stand-ins inside.

DKMS, the build of the kernel module against Debian's headers, dpkg, apt and systemd are real. ``beegfs_standin/`` has
what is not, and says so.
"""

from __future__ import annotations

import hashlib
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from integration.apt_repository import make_deb
from rig import network

_STAND_IN = Path(__file__).with_name("beegfs_standin")

_DKMS_CONF = """PACKAGE_NAME="beegfs"
PACKAGE_VERSION="{version}"
BUILT_MODULE_NAME[0]="beegfs"
BUILT_MODULE_LOCATION[0]="build/"
DEST_MODULE_LOCATION[0]="/kernel/fs/beegfs/"
MAKE[0]="make -C build module 'KDIR=$kernel_source_dir' BEEGFS_VERSION={version}"
CLEAN="make -C build clean"
AUTOINSTALL="yes"
"""
_MAKEFILE = """-include /etc/beegfs/beegfs-client-build.mk
obj-m := beegfs.o
ccflags-y := -DSTAND_IN_VERSION='"{version}"' {defines} $(if $(BEEGFS_NO_RDMA),-DBEEGFS_NO_RDMA)
module:
\t$(MAKE) -C $(KDIR) M=$(CURDIR) modules
clean:
\trm -f *.o *.ko *.mod *.mod.c
"""
_CLIENT_CONF = """# This is a config file for BeeGFS clients.
sysMgmtdHost                  =
connAuthFile                  = /etc/beegfs/conn.auth
connDisableAuthentication     = false
"""
_BUILD_MK = """# BeeGFS client module DKMS build configuration
# To disable RDMA support, define BEEGFS_NO_RDMA
#BEEGFS_NO_RDMA=1
"""
# as dh_dkms makes them
_CLIENT_SCRIPTS = {
    "postinst": """#!/bin/sh
set -e
if [ "$1" = configure ]; then
    /usr/lib/dkms/common.postinst beegfs {version} "" "" "$2"
fi
""",
    "prerm": """#!/bin/sh
set -e
if [ "$(dkms status -m beegfs -v {version})" ]; then
    dkms remove -m beegfs -v {version} --all
fi
""",
}
_HELPERD_UNIT = """[Unit]
Description=BeeGFS Helperd (stand-in)
Requires=network-online.target
After=network-online.target

[Service]
ExecStart=/opt/beegfs/sbin/beegfs-helperd cfgFile=/etc/beegfs/beegfs-helperd.conf

[Install]
WantedBy=multi-user.target
"""
# its package enables it and does not start it
_HELPERD_POSTINST = """#!/bin/sh
set -e
[ "$1" != configure ] || deb-systemd-helper enable beegfs-helperd.service
"""
_HELPERD_POSTRM = """#!/bin/sh
set -e
[ "$1" != remove ] || deb-systemd-helper disable beegfs-helperd.service || true
[ "$1" != purge ] || deb-systemd-helper purge beegfs-helperd.service || true
"""
#: A stand-in server package tells by its file that it was installed.
_SERVERS = ("beegfs-mgmtd", "beegfs-meta", "beegfs-storage")


def make_packages(folder: Path, version: str, *, broken: bool = False) -> list[Path]:
    """All packages of release *version*; the module of a *broken* one does not compile."""
    series = version.rpartition(".")[0]
    debian = f"20:{version}"
    made = [_client(folder, version, series, "-DSTAND_IN_BROKEN" if broken else "")]
    made += [
        make_deb(folder, name, debian, architecture="amd64", files={f"opt/beegfs/sbin/{name}": "#!/bin/sh\nexit 1\n"})
        for name in _SERVERS
    ]
    common = {"Depends": f"beegfs-common (= {debian})"} if series.startswith("7.") else {}
    made.append(
        make_deb(
            folder,
            "beegfs-utils",
            debian,
            architecture="amd64",
            # nothing of a client may bring in a server's package
            fields={**common, "Recommends": "libbeegfs-ib, beegfs-mgmtd"},
            files={"usr/sbin/beegfs-ctl" if common else "sbin/fsck.beegfs": "#!/bin/sh\necho stand-in\n"},
        )
    )
    if not common:
        tool = {"usr/bin/beegfs": f"#!/bin/sh\necho stand-in {version}\n"}
        return [*made, make_deb(folder, "beegfs-tools", debian, architecture="amd64", files=tool)]
    lib = {"etc/beegfs/lib/start-stop-functions": "# stand-in\n"}
    made.append(make_deb(folder, "beegfs-common", debian, architecture="amd64", files=lib))
    helperd = {
        "opt/beegfs/sbin/beegfs-helperd": (_STAND_IN / "beegfs-helperd").read_text(),
        "etc/beegfs/beegfs-helperd.conf": "connAuthFile =\nconnDisableAuthentication = false\n",
        "usr/lib/systemd/system/beegfs-helperd.service": _HELPERD_UNIT,
    }
    made.append(
        make_deb(
            folder,
            "beegfs-helperd",
            debian,
            architecture="amd64",
            fields={**common, "Recommends": "libbeegfs-ib"},
            files=helperd,
            scripts={"postinst": _HELPERD_POSTINST, "postrm": _HELPERD_POSTRM},
            conffiles=["/etc/beegfs/beegfs-helperd.conf"],
        )
    )
    return made


def _client(folder: Path, version: str, series: str, defines: str) -> Path:
    source = f"usr/src/beegfs-{version}"
    return make_deb(
        folder,
        "beegfs-client-dkms",
        f"20:{version}",
        fields={"Depends": "dkms", "Conflicts": "beegfs-client", "Recommends": "linux-headers-amd64"},
        files={
            f"{source}/dkms.conf": _DKMS_CONF.format(version=version),
            f"{source}/build/Makefile": _MAKEFILE.format(version=version, defines=defines),
            f"{source}/build/beegfs.c": (_STAND_IN / "beegfs.c").read_text(),
            "etc/beegfs/beegfs-client.conf": _CLIENT_CONF,
            "etc/beegfs/beegfs-client-build.mk": _BUILD_MK,
            "usr/sbin/mount.beegfs": (_STAND_IN / "mount.beegfs").read_text().replace("@SERIES@", series),
        },
        scripts={name: text.format(version=version) for name, text in _CLIENT_SCRIPTS.items()},
        conffiles=["/etc/beegfs/beegfs-client.conf", "/etc/beegfs/beegfs-client-build.mk"],
    )


class ManagementDaemon:
    """STAND-IN for beegfs-mgmtd on the rig's own address: it lets in who has its secret and speaks its series."""

    def __init__(self) -> None:
        self.secret: bytes | None = None
        self.calls: list[str] = []
        self.port = 0

    @contextmanager
    def serving(self) -> Iterator[ManagementDaemon]:
        daemon = self

        class Call(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                said = self.rfile.readline().decode().strip()
                daemon.calls.append(said)
                series, _, key = said.partition(" ")
                wanted = hashlib.sha256(daemon.secret).hexdigest() if daemon.secret is not None else "none"
                good = series and key == wanted
                self.wfile.write(b"OK\n" if good else b"authentication failed\n")

        with socketserver.ThreadingTCPServer((network.GATEWAY, 0), Call) as server:
            server.daemon_threads = True
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
