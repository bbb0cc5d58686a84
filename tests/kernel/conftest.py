# SPDX-License-Identifier: LGPL-2.1-or-later
"""What another kernel than this machine's does, in a machine that is nothing but that kernel."""

import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "lab"))
