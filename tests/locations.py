"""Where the material lies that is not part of the project: golden outputs and development images."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = SHARED / "golden"
DATA = SHARED / "data"
