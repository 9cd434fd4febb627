"""What tests need from outside the project: golden outputs, development images, and the compilers."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
GOLDEN = SHARED / "golden"
DATA = SHARED / "data"
CASES = SHARED / "cases"

# The development extra brings CUDA compilers here, so their absence is a failure; elsewhere there are none to bring.
CUDA_COMPILERS_EXPECTED = sys.platform == "linux"
