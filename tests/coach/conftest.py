"""Lets the tests of this folder import the benchmarks of the checkout, however pytest is started."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

# A source distribution has the tests but not the benchmarks.
collect_ignore = [] if (ROOT / "benchmarks" / "coach").is_dir() else ["test_suite.py"]
