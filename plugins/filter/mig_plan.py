# Copyright: The hpc.compute authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter ``mig_plan``: the planner's face on the control machine. The engine is in ``module_utils/mig``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hpc.compute.plugins.module_utils.mig.fleet import (
    Planner,
    Wishes,
    boards_named,
    conditions_of,
)
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout import Entry, parse_entries, parse_layout
from ansible_collections.hpc.compute.plugins.module_utils.mig.layout_file import load_layout


def mig_plan(
    layout: Any,
    target: Any,
    config: str | None = None,
    *,
    busy: Any = None,
    allow_busy: bool = False,
    allow_missing: bool = False,
    driver_version: str | None = None,
    drawing: bool = True,
    width: int = 80,
    ascii_only: bool = False,
) -> dict[str, Any]:
    """See ``mig_plan.yml`` for what goes in and comes out."""
    try:
        fleet = isinstance(target, Mapping) and "schema" not in target and "inventory" not in target
        wishes = Wishes(
            conditions=conditions_of(busy, allow_busy, None if fleet else target),
            driver_version=driver_version,
            allow_missing=allow_missing,
            drawing=drawing,
            width=width,
            ascii_only=ascii_only,
        )
        planner = Planner(_entries(layout, config), wishes)
        if fleet:
            return _hosts(planner, target)
        if isinstance(target, Mapping):
            return planner.recorded(target)
        if isinstance(target, Sequence):
            return planner.inventory(boards_named(target))
    except ValueError as error:
        raise AnsibleFilterError(f"mig_plan: {error}") from error
    raise AnsibleFilterError(
        "mig_plan: expected as target a board name, a list of them, a recorded inventory or inventories by host, found "
        f"{type(target).__name__}"
    )


def _hosts(planner: Planner, target: Mapping[str, Any]) -> dict[str, Any]:
    """Ansible hands out containers that template each value when it is first looked at: for ten thousand machines that
    takes five times as long as everything else. Recorded data holds no templates, so it is looked at directly. Where
    that does not give a plan (somebody did write a template there) Ansible's way is taken and has the last word.
    """
    try:
        return planner.hosts(_unwrapped(target))
    except ValueError:
        return planner.hosts(target)


def _unwrapped(value: Any) -> Any:
    """*value* without the wrappers of Ansible 2.19 and later, which are known by name as they are not importable.

    What is in a wrapped plain container is plain, so this ends where recorded data begins.
    """
    kind = type(value).__name__
    if kind == "_LazyValue":
        return _unwrapped(value.value)
    if kind == "_AnsibleLazyTemplateDict":
        return {key: _unwrapped(one) for key, one in dict.items(value)}
    if kind == "_AnsibleLazyTemplateList":
        return [_unwrapped(one) for one in list.__iter__(value)]
    return value


def _entries(layout: Any, config: str | None) -> Sequence[Entry]:
    if isinstance(layout, str):
        return load_layout(layout).config(config)
    if isinstance(layout, Sequence):
        return parse_entries(layout)
    return parse_layout(layout).config(config)


class FilterModule:
    """Ansible's way of finding filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file by name."""
        return {"mig_plan": mig_plan}
