# SPDX-License-Identifier: LGPL-2.1-or-later
"""Simulated hosts on one machine: `from simlab import Lab`."""

from .lab import Lab
from .sh import LabError

__all__ = ["Lab", "LabError"]
