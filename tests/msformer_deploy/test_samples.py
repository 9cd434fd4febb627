"""The old name of the sample images."""

from __future__ import annotations

import subprocess
import sys

import pytest

from msformer_deploy.images.samples import shown_images


@pytest.mark.slow
def test_the_old_name_works_and_says_where_to_go() -> None:
    command = [sys.executable, "-W", "always", "-m", "msformer_deploy.samples"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(path) for path in shown_images()]
    assert "DeprecationWarning: msformer_deploy.samples will be removed in version 0.3" in done.stderr
    assert "import msformer_deploy.images.samples" in done.stderr
