"""How the work is divided into blocks."""

from __future__ import annotations

import pytest

from msformer_deploy.kernels import geometry


@pytest.mark.parametrize("multiprocessors", [8, 16, 30, 108, 132, 142])
@pytest.mark.parametrize("side", [97, 193, 257])
def test_all_parts_of_the_positions_run_at_once(multiprocessors, side):
    """One block beyond what runs at once would double the time."""
    fine, coarse = side**2, ((side + 1) // 2) ** 2
    for batch in (1, 2, 3, 5, 8, 16, 32, 64):
        slots = 2 * multiprocessors // (batch * geometry.context_tiles(100))
        parts = geometry.context_parts(fine, coarse, slots)
        assert min(parts) >= 1
        assert sum(parts) <= max(slots, 2)
        if slots >= 4:
            longest = max(-(-fine // parts[0]), -(-coarse // parts[1]))
            assert longest <= max(256, 1.7 * (fine + coarse) / slots), "and none waits long for another"


@pytest.mark.parametrize(
    ("fine", "coarse", "slots", "parts"), [(1, 1, 264, (1, 1)), (600, 70, 0, (1, 1)), (600, 70, 9, (3, 1))]
)
def test_few_positions_have_few_parts(fine, coarse, slots, parts):
    assert geometry.context_parts(fine, coarse, slots) == parts
