# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is stored on a node about its layout: the layout itself, and how careful its application is to be."""

from __future__ import annotations

import configparser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from ..mig.apply_prepare import Options
from ..mig.layout import Entry, LayoutError
from ..mig.layout_file import read_layout

LAYOUT = Path("etc/hpc-compute/gpu-layout.yml")
SETTINGS = Path("etc/hpc-compute/gpu-layout.conf")

_SECTION = "gpu-layout"
_CHOICES = {"on_busy": ("fail", "destroy"), "reset": ("never", "when_needed"), "partial": ("skip", "fail")}
_KEYS = ("config", *_CHOICES, "stop_services")


class SettingsError(Exception):
    """The settings file can't be used; the text names what is wrong with it."""


@dataclass(frozen=True)
class Settings:
    """*config*: the configuration of the stored layout that is in force, ``None`` for its only one."""

    config: str | None = None
    options: Options = field(default_factory=Options)


def read_settings(root: Path) -> Settings:
    """The settings below *root*; the defaults where there is no file.

    :raises SettingsError: there is one with something in it that means nothing.
    """
    path = root / SETTINGS
    parser = configparser.ConfigParser(interpolation=None)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"expected a readable settings file, found {path}: {error}") from error
    try:
        parser.read_string(text, str(path))
    except configparser.Error as error:
        raise SettingsError(f"expected a file of the form 'key = value' with [{_SECTION}] above: {error}") from error
    if parser.sections() != [_SECTION] or parser.defaults():
        raise SettingsError(f"{path}: expected the one section [{_SECTION}], found {parser.sections() or 'none'}")
    values = dict(parser[_SECTION])
    return Settings(values.get("config") or None, _options(path, values))


def _options(path: Path, values: dict[str, str]) -> Options:
    for key, value in values.items():
        if key not in _KEYS:
            raise SettingsError(f"{path}: expected only the keys {', '.join(_KEYS)}, found {key!r}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise SettingsError(f"{path}: expected {key} to be {' or '.join(_CHOICES[key])}, found {value!r}")
    plain = Options()
    return Options(
        on_busy=cast(Literal["fail", "destroy"], values.get("on_busy", plain.on_busy)),
        reset=cast(Literal["never", "when_needed"], values.get("reset", plain.reset)),
        partial=cast(Literal["skip", "fail"], values.get("partial", plain.partial)),
        stop_services=tuple(values.get("stop_services", "").replace(",", " ").split()),
    )


def read_entries(path: Path, config: str | None) -> tuple[Entry, ...]:
    """The entries of one configuration of a layout file.

    :raises LayoutError: the file can't be used, or has no such configuration; the text names the file.
    """
    try:
        return read_layout(path).config(config)
    except LayoutError as error:
        if str(path) in str(error):
            raise
        raise LayoutError(f"{error} (in {path})") from error
