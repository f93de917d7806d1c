# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether kernel, kernel modules and driver fit together, and whether the machine waits for a reboot."""

from __future__ import annotations

import re

from ..gpu.inventory import read_inventory
from .metrics import Metric, Sample, gauge
from .probe import CollectError, Probe

# 6.12.117+deb13-cloud-amd64: a version, then the flavour. Two flavours are two machines' kernels, not old and new.
_KERNEL = re.compile(r"(?P<version>[0-9][0-9.]*(?:[+~][a-z0-9.]+)*(?:-[0-9][0-9.]*)*)-(?P<flavour>[a-z][a-z0-9-]*)")
# `dkms status`: "nvidia/580.95.05, 6.12.117+deb13-amd64, x86_64: installed (...)"; only "added" has no kernel.
_DKMS = re.compile(r"(?P<module>[^/,\s]+)/(?P<version>[^,:\s]+)(?:, (?P<kernel>[^,\s]+), [^:]+)?: (?P<state>\w+)")
_LOADED = re.compile(r"(?:Kernel Module(?: for \S+)?|Module for \S+)\s+(\d+(?:\.\d+)+)")
_REBOOT = "run/reboot-required"


def collect(probe: Probe) -> list[Metric]:
    """What applies: nothing about DKMS or the driver where there is none, nothing about kernels in a container.

    :raises CollectError: a tool that is there does not answer.
    """
    kernels = installed_kernels(probe)
    return [*_reboot(probe, kernels), *_dkms(probe, kernels), *_driver(probe)]


def installed_kernels(probe: Probe) -> list[str]:
    """Releases of the kernels that can be booted."""
    return sorted(path.name.removeprefix("vmlinuz-") for path in (probe.root / "boot").glob("vmlinuz-*"))


def _reboot(probe: Probe, kernels: list[str]) -> list[Metric]:
    wanted = probe.has(_REBOOT)
    newest = _newest(probe, kernels)
    reasons = {"package": wanted, "kernel": newest not in (None, probe.kernel())}
    return [
        Metric(
            "hpc_reboot_required",
            "Whether the machine waits for a reboot: for a package that asked for it, or for a newer kernel.",
            tuple(Sample(float(value), {"reason": reason}) for reason, value in reasons.items()),
        ),
        Metric(
            "hpc_kernel_info",
            "The running kernel, and the newest that is installed of its flavour.",
            (Sample(1, {"running": probe.kernel(), "newest": newest or probe.kernel()}),),
        ),
    ]


def _newest(probe: Probe, kernels: list[str]) -> str | None:
    running = _KERNEL.fullmatch(probe.kernel())
    if running is None:
        return None  # none of Debian's
    same = [one for one in kernels if (match := _KERNEL.fullmatch(one)) and match["flavour"] == running["flavour"]]
    if len(same) < 2:
        return same[0] if same else None
    # Debian's own tool knows how kernel releases are ordered; every kernel package depends on it.
    return probe.ask("linux-version", "sort", *same).split()[-1]


def _dkms(probe: Probe, kernels: list[str]) -> list[Metric]:
    if not probe.has("usr/sbin/dkms"):
        return []
    states: dict[tuple[str, str], dict[str, str]] = {}
    for line in probe.ask("dkms", "status").splitlines():
        found = _DKMS.match(line.strip())
        if found is None:
            raise CollectError(
                f"expected lines of 'dkms status' such as 'nvidia/580.95.05, KERNEL, x86_64: installed', "
                f"found {line.strip()!r}"
            )
        built = states.setdefault((found["module"], found["version"]), {})
        if found["kernel"]:
            built[found["kernel"]] = found["state"]
    # Every kernel that may be booted next, and the running one, also where its package is gone; in a container neither.
    running = [probe.kernel()] if probe.has(f"usr/lib/modules/{probe.kernel()}") else []
    wanted = sorted({*kernels, *running})
    return [
        Metric(
            "hpc_dkms_module_installed",
            "Whether a DKMS module is built and installed for a kernel of this machine.",
            tuple(
                Sample(
                    float(built.get(kernel) == "installed"),
                    {"module": module, "version": version, "kernel": kernel},
                )
                for (module, version), built in sorted(states.items())
                for kernel in wanted
            ),
        )
    ]


def _driver(probe: Probe) -> list[Metric]:
    path = probe.root / "proc/driver/nvidia/version"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CollectError(f"expected a readable file {path}: {error.strerror or error}") from error
    found = _LOADED.search(text)
    if found is None:
        raise CollectError(f"expected the version of the kernel module in {path}, found {text.strip()[:120]!r}")
    inventory = read_inventory(probe.root, probe.load)
    # NVML refuses to work with a kernel module of another version: that, too, is an answer.
    refuses = any(one.code == "version_mismatch" for one in inventory.problems)
    library = "" if refuses else inventory.driver_version or ""
    apart = refuses or library not in ("", found[1])
    return [
        Metric(
            "hpc_gpu_driver_info",
            "The NVIDIA driver: the loaded kernel module and the library beside it (empty where it does not answer).",
            (Sample(1, {"module": found[1], "library": library}),),
        ),
        gauge(
            "hpc_gpu_driver_mismatch",
            "Whether library and loaded kernel module are of different versions: GPUs can't be used until a reboot.",
            float(apart),
        ),
    ]
