"""The reason for the failure of a decoder that does not give one."""

from __future__ import annotations

import pytest

from msformer_deploy.errors import ImageError
from msformer_deploy.images.decoders.stored import in_memory


@pytest.mark.parametrize(
    ("size", "error", "told"),
    [
        (8, ValueError("broken"), ValueError),
        (2**60, ValueError("broken"), MemoryError),
        (2**60, ImageError("too large"), ImageError),
    ],
)
def test_a_failure_is_of_memory_where_that_cannot_be_had(size: int, error: Exception, told: type[Exception]) -> None:
    with pytest.raises(told), in_memory(size):
        raise error


def test_what_does_not_fail_needs_no_memory() -> None:
    with in_memory(2**60):
        pass
