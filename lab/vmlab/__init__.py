# SPDX-License-Identifier: LGPL-2.1-or-later
"""Virtual machines as hosts: `from vmlab import VmLab`."""

from simlab.sh import LabError

from .lab import VmLab

__all__ = ["LabError", "VmLab"]
