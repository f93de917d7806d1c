# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong about GPUs in slurm.conf and gres.conf, before Slurm refuses it or silently does something else.

Each rule was seen to be broken with the real Slurm 24.11.5. With the inventories of the nodes more can be told.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..gpu.model import Inventory
from .binding import Binding
from .cpus import format_ranges, parse_ranges
from .devices import Device, devices
from .fleet_change import read_nodes
from .gres import GresEntry, GresSyntaxError, gpu_entries, parse_gres
from .gres_text import GresLine, GresText, parse_gres_conf
from .hostlist import fold, sort_key
from .match import check, fatal
from .sharing import KINDS

Severity = Literal["error", "warning"]

#: In the comments of files that are made at each boot.
_MADE_ANEW = "gpu-layout.service"
_HYPHENATED = re.compile(r"-((?:\d+c\.)?\d+g\.\d+gb)", re.ASCII)


@dataclass(frozen=True)
class Finding:
    """*message* says what was expected, what was found, what to do. *nodes* is a host list, empty for the files alone.

    An ``error`` makes Slurm refuse, set a node to INVAL, or give jobs wrong devices. A ``warning`` may do harm.
    """

    code: str
    severity: Severity
    message: str
    nodes: str = ""


_Found = tuple[str, Severity, str]


def lint(
    slurm_conf: str,
    gres_conf: str,
    machines: Mapping[str, Inventory] | None = None,
    *,
    image: bool = False,
    nvml_plugin: bool | None = None,
) -> list[Finding]:
    """Look at both texts.

    :param slurm_conf: its lines about nodes; others do no harm.
    :param machines: inventories by node name, where they are known.
    :param image: the files are for an image, from which many machines will boot.
    :param nvml_plugin: whether ``slurmd`` has its plugin ``gpu_nvml.so``; ``None`` where that isn't known.
    :raises ValueError: a host list, or a list of files, can't be read.
    """
    nodes, _ = read_nodes(slurm_conf)
    text = parse_gres_conf(gres_conf)
    found: dict[_Found, list[str]] = {}
    for one in _of_files(text, image):
        found.setdefault(one, [])
    for name in sorted(nodes, key=sort_key):
        for one in _of_node(name, nodes[name], text, (machines or {}).get(name), nvml_plugin):
            found.setdefault(one, []).append(name)
    order = {"error": 0, "warning": 1}
    findings = [Finding(code, severity, message, fold(names)) for (code, severity, message), names in found.items()]
    return sorted(findings, key=lambda one: order[one.severity])


def _of_files(text: GresText, image: bool) -> Iterator[_Found]:
    baked = [line for line in text.lines if line.slice]
    if baked and (image or _MADE_ANEW not in text.comments):
        file = next(file for file in baked[0].files if "nvidia-cap" in file)
        yield (
            "capability_files_baked",
            "error" if image else "warning",
            f"gres.conf, line {baked[0].number} names {file}, and the numbers of capability files are others after "
            "each boot and each cut; slurmd exits at a file that is missing. Have the node make gres.conf at boot "
            "(slurm_gres with store: true and the role gpu_layout), or use AutoDetect=nvml",
        )


def _of_node(
    name: str, words: Mapping[str, str], text: GresText, machine: Inventory | None, nvml_plugin: bool | None
) -> Iterator[_Found]:
    gres = words.get("gres", "")
    mode = text.autodetect(name)
    lines = text.of(name)
    if machine is not None:
        yield from _empty_mig(machine)
    try:
        entries = parse_gres(gres)
    except GresSyntaxError as error:
        yield "bad_gres", "error", str(error)
        return
    gpus = gpu_entries(entries)
    if mode == "nvidia":
        yield (
            "nvidia_detection",
            "warning",
            "AutoDetect=nvidia sees neither MIG slices nor NVLinks, and slurmd 24.11.5 may crash with it: use "
            "AutoDetect=nvml",
        )
    if mode == "nvml" and nvml_plugin is False and gpus:
        yield (
            "nvml_plugin_missing",
            "error",
            "AutoDetect=nvml needs slurmd's plugin gpu_nvml.so, which is not there: install Debian's package "
            "slurm-wlm-nvml-plugin (contrib)",
        )
    yield from _no_count(gres)
    refusal = fatal(gpus)
    if refusal is not None:
        yield refusal.code, "error", refusal.message
        return
    yield from _cores(lines, words)
    if mode == "nvml":
        yield from _detected(gpus, lines, machine)
    elif mode in (None, "off") and not text.includes:
        yield from _static(gpus, [line for line in lines if line.name == "gpu"], machine)
    if not text.includes:
        yield from _shared(entries, lines, machine)


def _no_count(gres: str) -> Iterator[_Found]:
    if re.search(r"(?:^|,)gpu(?:,|$)", gres):
        yield (
            "no_count",
            "warning",
            "Gres=gpu without a number is one GPU, however many there are: write gpu:N, or a type with a count for "
            "each kind",
        )


def _empty_mig(machine: Inventory) -> Iterator[_Found]:
    for gpu in machine.gpus:
        if gpu.mig.current and not any(one.compute_instances for one in gpu.gpu_instances):
            yield (
                "mig_empty",
                "error",
                f"MIG is on for GPU {gpu.pci_address}, and there is no instance that a job could use; slurmd would "
                "offer the whole GPU all the same. Cut it, or turn MIG off",
            )


def _cores(lines: Sequence[GresLine], words: Mapping[str, str]) -> Iterator[_Found]:
    per_socket = _number(words, "corespersocket")
    sockets = (_number(words, "sockets") or _number(words, "socketsperboard") or 1) * (_number(words, "boards") or 1)
    for line in lines:
        cores = line.get("cores")
        if cores is None:
            continue
        try:
            numbers = parse_ranges(cores)
        except ValueError:
            yield "bad_cores", "error", f"gres.conf, line {line.number}: expected core numbers, found Cores={cores}"
            continue
        if not per_socket:
            continue
        whole = {
            core
            for one in numbers
            for core in range(one // per_socket * per_socket, (one // per_socket + 1) * per_socket)
        }
        if max(numbers, default=0) >= per_socket * sockets:
            yield (
                "cores_beyond",
                "error",
                f"gres.conf, line {line.number}: expected cores below {per_socket * sockets}, found Cores={cores}: the "
                "controller would set the node to INVAL. Slurm counts cores, not threads, socket after socket",
            )
        elif whole != numbers:
            yield (
                "cores_not_sockets",
                "error",
                f"gres.conf, line {line.number}: Cores={cores} ends inside a socket of {per_socket} cores, at which "
                f"the controller sets the node to INVAL: write Cores={format_ranges(whole)}, or leave it out",
            )


def _number(words: Mapping[str, str], key: str) -> int:
    return int(words[key]) if words.get(key, "").isdecimal() else 0


def _detected(gpus: Sequence[GresEntry], lines: Sequence[GresLine], machine: Inventory | None) -> Iterator[_Found]:
    for line in lines:
        if line.name == "gpu" and line.files:
            yield (
                "explicit_under_nvml",
                "warning",
                f"gres.conf, line {line.number} names a GPU's file beside AutoDetect=nvml: where type, Cores or Links "
                "differ from what is detected Slurm drops the GPU, or forgets the UUIDs of its slices. Leave the line "
                "out, or use AutoDetect=off",
            )
    if machine is None:
        for entry in gpus:
            profile = _HYPHENATED.search(entry.type or "")
            if profile is not None:
                yield (
                    "hyphen_type",
                    "error",
                    f"{entry} would match no device: with AutoDetect=nvml Slurm joins board and MIG profile with '_', "
                    "and the configured type must occur in the detected one: write "
                    f"gpu:nvidia_..._{profile[1]}:{entry.count}, or use AutoDetect=off for a name of your own",
                )
        return
    found = devices(machine)
    verdict = check(gpus, found)
    for refusal in verdict.refusals:
        yield _translated(refusal.code, refusal.message, verdict.outcome.bindings if verdict.outcome else ())
    if verdict.outcome is not None:
        yield from _detected_links(verdict.outcome.bindings)


#: Findings for the refusals of :mod:`.match` that have other names here.
_CODES = {"wrong_device": "substring_capture", "too_many": "count_mismatch", "too_few": "unlisted_device"}


def _translated(code: str, message: str, bindings: Sequence[Binding]) -> _Found:
    if code in ("wrong_device", "ambiguous_type") and any(
        "+me" in one.device.type and one.label and "+me" not in one.label for one in bindings
    ):
        return "me_swallowed", "error", message
    return _CODES.get(code, code), "error", message


def _detected_links(bindings: Sequence[Binding]) -> Iterator[_Found]:
    whole = [one.device for one in bindings if one.device.kind == "gpu" and one.device.links]
    longest = max((len(one.links) for one in whole), default=0)
    if longest > len(bindings):
        yield (
            "links_too_long",
            "error",
            f"slurmd reports NVLinks between the {longest} GPUs that it detects while {len(bindings)} are offered, at "
            "which the controller sets the node to INVAL: offer all of them, or use AutoDetect=off",
        )
    elif len(whole) > 1 and any(one.links.index(-1) != place for place, one in enumerate(whole)):
        yield (
            "links_misplaced",
            "warning",
            "a whole GPU comes after one that is cut, so Slurm misplaces NVLinks, and a job that asks for several "
            "whole GPUs may fail: cut the last GPUs instead, or use AutoDetect=off",
        )


def _static(gpus: Sequence[GresEntry], lines: Sequence[GresLine], machine: Inventory | None) -> Iterator[_Found]:
    if gpus and not any(line.files for line in lines):
        yield (
            "no_devices",
            "error",
            "Gres= has GPUs, and gres.conf has neither AutoDetect=nvml nor a File= for them: slurmd offers no GPU "
            "without a device file, and the controller sets the node to INVAL",
        )
        return
    have: Counter[str | None] = Counter()
    untyped = any(entry.type is None for entry in gpus)
    for line in lines:
        have[None if untyped else line.get("type")] += line.count
    for entry in gpus:
        if have[entry.type] < entry.count:
            yield (
                "count_mismatch",
                "error",
                f"{entry} needs {entry.count} devices, and gres.conf names {have[entry.type]} of that type: the "
                'controller would set the node to INVAL ("count reported lower than configured")',
            )
        elif have[entry.type] > entry.count:
            yield (
                "unlisted_device",
                "warning",
                f"gres.conf names {have[entry.type]} devices for {entry}: Slurm guards only what it offers, so any job "
                "could use the others. Offer all, or none of them",
            )
    wanted = {entry.type for entry in gpus}
    for kind in sorted(kind or "(none)" for kind in have if kind not in wanted):
        yield (
            "unlisted_device",
            "warning",
            f"gres.conf names devices of the type {kind}, which Gres= does not: nobody can ask for them, and Slurm "
            "does not guard them",
        )
    yield from _static_links(lines, sum(entry.count for entry in gpus))
    if machine is not None:
        yield from _stale(lines, devices(machine))


def _static_links(lines: Sequence[GresLine], count: int) -> Iterator[_Found]:
    for line in lines:
        links = line.get("links")
        if links is None:
            continue
        numbers = links.split(",")
        if "-1" not in numbers:
            yield (
                "links_without_self",
                "warning",
                f"gres.conf, line {line.number}: Links={links} has no -1 for the GPU itself, so slurmd ignores it: "
                "write a number for each device of the node, in Slurm's order, -1 for itself",
            )
        elif len(numbers) > count:
            yield (
                "links_too_long",
                "error",
                f"gres.conf, line {line.number}: Links={links} has {len(numbers)} numbers for {count} devices, at "
                "which the controller sets the node to INVAL: write one for each device of the node",
            )


def _stale(lines: Sequence[GresLine], found: Sequence[Device]) -> Iterator[_Found]:
    there = {file for device in found for file in device.files}
    for line in lines:
        gone = [file for file in line.files if file not in there]
        if gone:
            yield (
                "stale_files",
                "error",
                f"gres.conf, line {line.number} names {', '.join(gone)}, which no GPU of the machine has now: slurmd "
                "would exit. Have gres.conf made on the node, by slurm_gres",
            )


def _shared(entries: Sequence[GresEntry], lines: Sequence[GresLine], machine: Inventory | None) -> Iterator[_Found]:
    slices = any(line.slice for line in lines) or (
        machine is not None and any(one.kind == "mig" for one in devices(machine))
    )
    for entry in entries:
        if entry.name not in KINDS:
            continue
        own = [line for line in lines if line.name == entry.name]
        if slices:
            yield (
                "shared_slices",
                "error",
                f"{entry} on a machine with MIG slices: Slurm shares slices, too, and gives such a job a number in "
                "place of a UUID. Turn MIG off, or take it out",
            )
        if any(len(line.files) > 1 for line in own):
            yield (
                "shared_file_list",
                "error",
                f"gres.conf, line {own[0].number}: slurmd exits at a list of files for {entry.name}: write a line for "
                "each GPU",
            )
            continue
        total = sum(int(line.get("count") or 0) for line in own if (line.get("count") or "0").isdecimal())
        if total < entry.count:
            yield (
                "count_mismatch",
                "error",
                f"{entry} needs lines Name={entry.name} Count=... in gres.conf that make {entry.count}, found {total}",
            )
