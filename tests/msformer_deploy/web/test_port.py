"""The page's own code in Node.js: types, and what it finds beside what Python finds."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from locations import ROOT


@pytest.mark.slow
def test_the_port_finds_what_python_finds() -> None:
    if shutil.which("npm") is None:
        pytest.skip("Node.js is not installed")
    if not (ROOT / "web" / "node_modules" / "vitest").is_dir():
        pytest.skip("what tests the page's code is not installed: npm ci --prefix web")
    done = subprocess.run(["npm", "test", "--prefix", "web"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
