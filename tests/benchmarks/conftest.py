from __future__ import annotations

import sys
from pathlib import Path

# What the benchmarks share lies beside them, where Python finds it when one of them runs.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
