# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of the layout language: device filters, names of GPUs, names of profiles.

Each parser gives the value, or a text that says what was expected and what was found: the caller knows the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_FILTER = re.compile(r"0x([0-9a-f]{4})([0-9a-f]{4})(?::0x([0-9a-f]{4})([0-9a-f]{4}))?", re.IGNORECASE)
_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)
_UUID = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_PROFILE = re.compile(r"(?:([1-9])c\.)?([1-9]\d?)g\.([1-9]\d{0,3})gb((?:[+-][a-z][a-z0-9.,]*)*)")
_INTENT = re.compile(r"([1-9]\d?g|half|whole)((?:[+-][a-z][a-z0-9.,]*)*)")
_NVIDIA = "10de"


@dataclass(frozen=True)
class DeviceFilter:
    """Boards of one PCI id (four lower-case hex digits each); the subsystem's ids are ``None`` when any will do."""

    device_id: str
    vendor_id: str
    subsystem_device_id: str | None = None
    subsystem_vendor_id: str | None = None


class SelectorKind(StrEnum):
    """In which way a GPU is named."""

    INDEX = "index"
    PCI_ADDRESS = "pci_address"
    UUID = "uuid"
    MODEL = "model"


@dataclass(frozen=True)
class Selector:
    """A name of GPUs. *text* is normalised: decimal index, full lower-case PCI address, lower-case UUID or glob.

    Of an index, a PCI address and a UUID there must be a GPU; a model glob describes a kind and may match none.
    """

    kind: SelectorKind
    text: str


@dataclass(frozen=True)
class ProfileName:
    """A key of ``mig-devices``.

    *compute*: compute slices, or ``half`` or ``whole``. *memory_gb* is ``None`` for an intent. *attributes* is what
    follows, ``+me``, or empty. *ci_slices* is the ``1`` of ``1c.3g.40gb``.
    """

    text: str
    compute: int | str
    memory_gb: int | None = None
    attributes: str = ""
    ci_slices: int | None = None


def device_filter(text: str) -> DeviceFilter | str:
    """``0x233010DE`` or, for boards of one maker, ``0x233010DE:0x16C110DE``."""
    match = _FILTER.fullmatch(text)
    if match is None:
        return (
            "expected '0x' and eight hex digits, the PCI device id and the vendor id ('0x233010DE'), with ':0x' and "
            f"the subsystem's eight digits where needed, found {_quoted(text)}"
        )
    device, vendor, sub_device, sub_vendor = (None if part is None else part.lower() for part in match.groups())
    if device is None or vendor != _NVIDIA:
        return f"expected a filter for NVIDIA's vendor id 10DE in the last four digits, found {_quoted(text)}"
    return DeviceFilter(device, vendor, sub_device, sub_vendor)


def selector(item: Any) -> Selector | str:
    """An index, a PCI address (with or without domain), a UUID, or a glob for the model name (``*H100*``)."""
    if isinstance(item, int) and not isinstance(item, bool):
        if not 0 <= item < 10**4:
            return "expected an index of a GPU from 0 on, found a negative or very large number"
        return Selector(SelectorKind.INDEX, str(item))
    if isinstance(item, float):
        return f"expected a device, found the number {item}: put PCI addresses in quotes, YAML reads some as numbers"
    if not isinstance(item, str):
        return "expected a device: an index, PCI address, UUID or model glob, found something else"
    if match := _PCI.fullmatch(item):
        domain, bus, slot, function = match.groups()
        return Selector(SelectorKind.PCI_ADDRESS, f"{int(domain or '0', 16):04x}:{bus}:{slot}.{function}".lower())
    if _UUID.fullmatch(item):
        return Selector(SelectorKind.UUID, item.lower())
    if item.lower().startswith(("gpu-", "mig-")):
        return f"expected the whole UUID of a GPU, GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, found {_quoted(item)}"
    if item == "all":
        return "expected `all` alone, found it in a list: write devices: all"
    if any(sign in item for sign in "*?["):
        return Selector(SelectorKind.MODEL, item.lower())
    return (
        f"expected all, an index, a PCI address, a UUID or a model glob, found {_quoted(item)}: a glob has a wildcard, "
        "like '*H100*'"
    )


def profile_name(text: str) -> ProfileName | str:
    """``3g.40gb``, ``1g.10gb+me``, ``1c.3g.40gb``, or an intent: ``1g``, ``half``, ``whole``, ``1g+me``."""
    if match := _PROFILE.fullmatch(text):
        ci_slices, compute, memory, attributes = match.groups()
        if ci_slices is not None and int(ci_slices) > int(compute):
            return f"expected at most {compute} compute slices in front of {compute}g, found {_quoted(text)}"
        return ProfileName(text, int(compute), int(memory), attributes, int(ci_slices) if ci_slices else None)
    if match := _INTENT.fullmatch(text):
        size, attributes = match.groups()
        return ProfileName(text, int(size[:-1]) if size.endswith("g") else size, None, attributes)
    return (
        "expected a profile name ('1g.10gb', '1g.10gb+me', '1c.3g.40gb') or an intent ('1g', 'half', 'whole'), in "
        f"lower case, found {_quoted(text)}"
    )


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= 60 else repr(text[:57] + "...")
