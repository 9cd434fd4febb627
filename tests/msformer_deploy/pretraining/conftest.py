"""Networks here are small."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def small(one_thread: None) -> None:
    """Train on one thread."""
