# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one GPU shall be cut into, in the catalogue's terms: the common ground of layouts and plans."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Want:
    """One wanted GPU instance.

    *split* lists the compute slices of its compute instances, largest first. A plain profile name (``3g.40gb``) means
    one compute instance that has all of them, ``(3,)``; ``1c.3g.40gb: 3`` means ``(1, 1, 1)``.
    """

    profile_id: int
    split: tuple[int, ...]


@dataclass(frozen=True)
class Demand:
    """MIG off, or MIG on with exactly these instances and no others (none at all is allowed). *wants* are sorted."""

    enabled: bool
    wants: tuple[Want, ...] = ()

    def counts(self) -> Counter[int]:
        """How many GPU instances of each profile id."""
        return Counter(want.profile_id for want in self.wants)


MIG_OFF = Demand(enabled=False)
