# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The box of the virtual machines, without one."""

from __future__ import annotations

from rig import box, environment


def test_vagrants_variables_leave_the_path_to_the_tools_alone() -> None:
    """Molecule finds ansible-config by it, which a bare machine has in the virtual environment only."""
    assert not set(box.variables()) & set(environment.variables()) - {"VAGRANT_HOME", "LIBVIRT_DEFAULT_URI"}
