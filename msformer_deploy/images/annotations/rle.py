"""Run lengths of COCO: numbers of pixels outside and inside by turns, column by column from the top left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .shapes import BadShape


def decode(counts: Sequence[int] | str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (h, w) of run lengths.

    Args:
        counts: numbers, or the text that pycocotools makes of them.
        size: rows and columns.

    Raises:
        BadShape: they do not fill the mask.
    """
    runs = _numbers(counts) if isinstance(counts, str) else counts
    if any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise BadShape(
            f"run lengths that do not fill a mask of {size[1]} x {size[0]}; export the annotations again, as polygons"
            " if you can"
        )
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, np.asarray(runs, np.int64)).reshape(size[::-1]).T


def _numbers(text: str) -> list[int]:
    """The numbers in a text of pycocotools (``rleFrString`` of COCO's maskApi.c).

    Each number is in characters of five bits, the lowest first, with a sixth bit where more follow; the highest bit of
    the last one is the sign. From the fourth number on, it is the difference to the number two before.
    """
    numbers: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in text):
        if not 0 <= code < 64:
            raise BadShape("run lengths with characters that COCO does not have; export the annotations again")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return numbers
