# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether Slurm will give every configured GRES type the devices that it means, and if not, what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .binding import Outcome, bind
from .devices import Device
from .gres import GresEntry, format_gres, gpu_entries, gres_of, type_id

_PROFILE = re.compile(r"(?:^|_)((?:\d+c\.)?\d+g\.\d+gb\S*)$", re.ASCII)
_SEPARATORS = re.compile(r"[-_ ]")


@dataclass(frozen=True)
class Refusal:
    """Why a configuration must not reach Slurm.

    *code*: ``unknown_type``, ``hyphen_type``, ``ambiguous_type``, ``wrong_device``, ``too_many``, ``too_few``,
    ``mixed_types`` or ``type_clash``. *label* is the configured type in question.
    """

    code: str
    message: str
    label: str | None = None


@dataclass(frozen=True)
class Check:
    """What Slurm would do (``None`` where it would not even start) and what is wrong with it."""

    outcome: Outcome | None
    refusals: tuple[Refusal, ...]


def check(entries: Sequence[GresEntry], devices: Sequence[Device], *, allow_unlisted: bool = False) -> Check:
    """Whether Slurm will bind every configured type to the devices it means, and to all of them.

    See :func:`meaning` for what a type means.

    :param allow_unlisted: don't refuse because a device stays without an entry; a wrong binding is refused still.
    """
    gpus = gpu_entries(entries)
    refusal = fatal(gpus)
    if refusal is not None:
        return Check(None, (refusal,))
    outcome = bind(gpus, devices)
    refusals: list[Refusal] = []
    for entry in gpus:
        if entry.type is None:
            refusals += _judge_untyped(entry, outcome, devices)
        else:
            refusals += _judge(entry, entry.type, gpus, outcome, devices)
    # one that is left out because another is bound wrongly needs no second message
    if outcome.ignored and not allow_unlisted and not refusals:
        refusals.append(_unlisted(outcome.ignored, gpus, devices))
    return Check(outcome, tuple(refusals))


def fatal(gpus: Sequence[GresEntry]) -> Refusal | None:
    """What keeps Slurm from reading these entries as they are written, whatever the machine has."""
    return _mixed(gpus) or _clash(gpus)


def meaning(label: str, devices: Sequence[Device]) -> list[Device]:
    """The devices that a person who writes this type means; empty when there is none of that name.

    A full type name means the devices of that type. An abbreviation with a MIG profile means slices of exactly that
    profile: ``1g.5gb`` is not ``1g.5gb+me``. One without means whole GPUs, or slices where no whole GPU's name has it.
    """
    wanted = label.lower()
    exact = [device for device in devices if device.type.lower() == wanted]
    if exact:
        return exact
    containing = [device for device in devices if wanted in device.type.lower()]
    profile = _profile(label)
    if profile is not None:
        return [device for device in containing if device.kind == "mig" and _profile(device.type) == profile]
    return [device for device in containing if device.kind == "gpu"] or containing


def _profile(name: str) -> str | None:
    match = _PROFILE.search(name.lower())
    return match[1] if match else None


def _mixed(entries: Sequence[GresEntry]) -> Refusal | None:
    untyped = [entry for entry in entries if entry.type is None]
    if not untyped or len(untyped) == len(entries):
        return None
    return Refusal(
        "mixed_types",
        f'{untyped[0]} has no type while other GPUs have one, at which slurmd exits ("Some gpu GRES in slurm.conf have '
        'a type while others do not"): give every gpu entry a type, or none',
    )


def _clash(entries: Sequence[GresEntry]) -> Refusal | None:
    seen: dict[int, str] = {}
    for name in (entry.type for entry in entries if entry.type is not None):
        other = seen.setdefault(type_id(name), name)
        if other != name:
            return Refusal(
                "type_clash",
                f"the types {other} and {name} have the same number inside Slurm, which takes the second for the first"
                ": write their full names",
                name,
            )
    return None


def _judge(
    entry: GresEntry, label: str, entries: Sequence[GresEntry], outcome: Outcome, devices: Sequence[Device]
) -> list[Refusal]:
    bound = [binding.device for binding in outcome.bindings if binding.label == label]
    meant = meaning(label, devices)
    if not meant:
        return [_unknown(label, bound, devices)]
    if len({(device.kind, _profile(device.type)) for device in meant}) > 1:
        return [_ambiguous(label, meant)]
    refusals = []
    wrong = next((device for device in bound if device not in meant), None)
    if wrong is not None:
        idle = next((device for device in meant if device not in bound), meant[0])
        refusals.append(
            Refusal(
                "wrong_device",
                f"{entry} means {idle}, but Slurm would give it {wrong}, whose name has {label!r} in it too and which "
                f"no other entry claims. Write the full type name, {_full(idle)}, and an entry for every device",
                label,
            )
        )
    if label in dict(outcome.missing):
        refusals.append(_too_many(entry, entries, len(bound), meant))
    return refusals


def _full(device: Device) -> str:
    return str(GresEntry("gpu", device.type, 1))


def _unknown(label: str, bound: Sequence[Device], devices: Sequence[Device]) -> Refusal:
    likely = _suggestions(label, devices)
    present = ", ".join(str(entry) for entry in gres_of(devices)) or "no GPU that Slurm could use"
    hint = f"write {' or '.join(likely)}" if likely else f"this machine has {present}"
    if bound:
        return Refusal(
            "unknown_type",
            f"no device is of type {label}, but Slurm would give it {bound[0]}, whose name only contains it: {hint}",
            label,
        )
    if _profile(label) is None and _profile(_spaced(label)) is not None:
        return Refusal(
            "hyphen_type",
            f"type {label} would match no device: with AutoDetect=nvml Slurm joins board and MIG profile with '_', and "
            f"a configured type must occur in the detected one: {hint}",
            label,
        )
    return Refusal(
        "unknown_type",
        f"type {label} would match no device, as a configured type must occur in a detected one: {hint}",
        label,
    )


def _suggestions(label: str, devices: Sequence[Device]) -> list[str]:
    """Types of this machine that the writer may have had in mind; empty when none is like it."""
    spaced = _spaced(label)
    profile = _profile(spaced)
    types = sorted({device.type for device in devices})
    of_profile = [kind for kind in types if _profile(kind) == profile]
    words = {word for word in spaced.split("_") if word not in ("nvidia", profile)}
    return (
        [kind for kind in types if _spaced(kind) == spaced]
        or [kind for kind in of_profile if spaced in _spaced(kind)]
        or [kind for kind in of_profile if profile and words & set(_spaced(kind).split("_"))]
        or [kind for kind in types if spaced in _spaced(kind)]
        or difflib.get_close_matches(label.lower(), types, n=1, cutoff=0.6)
    )


def _spaced(name: str) -> str:
    """The name with hyphens, underscores and spaces taken for the same."""
    return _SEPARATORS.sub("_", name.lower())


def _ambiguous(label: str, meant: Sequence[Device]) -> Refusal:
    kinds = " and ".join(sorted({device.type for device in meant}))
    return Refusal(
        "ambiguous_type",
        f"type {label} stands for slices of different kinds, {kinds}, so a job could get any of them: write the full "
        "type names, an entry for each",
        label,
    )


def _too_many(entry: GresEntry, entries: Sequence[GresEntry], got: int, meant: Sequence[Device]) -> Refusal:
    rivals = [
        str(other)
        for other in entries
        if other is not entry and any((other.type or "").lower() in device.type.lower() for device in meant)
    ]
    reason = f"this machine has {len(meant)}" + (f", wanted by {', '.join(rivals)} too" if rivals else "")
    return Refusal("too_many", _lower_than_configured(entry, got, reason), entry.type)


def _judge_untyped(entry: GresEntry, outcome: Outcome, devices: Sequence[Device]) -> list[Refusal]:
    if not outcome.missing:
        return []
    reason = f"this machine has {len(devices)} devices"
    return [Refusal("too_many", _lower_than_configured(entry, len(outcome.bindings), reason))]


def _lower_than_configured(entry: GresEntry, got: int, reason: str) -> str:
    return (
        f"{entry} asks for more than there is ({reason}): slurmd would report {got}, and the controller set the node "
        f'to INVAL with "gres/gpu count reported lower than configured ({got} < {entry.count})"'
    )


def _unlisted(ignored: Sequence[Device], entries: Sequence[GresEntry], devices: Sequence[Device]) -> Refusal:
    names = ", ".join(str(device) for device in ignored)
    untyped = any(entry.type is None for entry in entries)
    whole = str(GresEntry("gpu", None, len(devices))) if untyped else format_gres(gres_of(devices))
    return Refusal(
        "too_few",
        f"no entry is left for {names}, so no job could use it, and which device is left out is Slurm's choice: list "
        f"all devices, Gres={whole}",
    )
