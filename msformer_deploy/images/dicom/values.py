"""Values of a header as plain numbers and code words: empty where they are missing or damaged."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """All values of an element; none if one of them is no finite number."""
    try:
        value: Any = dataset.get(keyword)
        found = tuple(map(float, value if _is_list(value) else (value,)))
    except Exception:  # pydicom converts values when they are asked for, and damage can raise any error
        return ()
    return found if all(map(math.isfinite, found)) else ()


def whole(dataset: Dataset, keyword: str) -> int | None:
    """The only value of an element, if it is a whole number."""
    found = numbers(dataset, keyword)
    return int(found[0]) if len(found) == 1 and found[0].is_integer() else None


def word(dataset: Dataset, keyword: str) -> str:
    """A code word, such as MONOCHROME2, in capitals; of several the first. Compare it, and never show it."""
    try:
        value: Any = dataset.get(keyword)
        return str((value if not _is_list(value) else value[0]) or "").strip().upper()
    except Exception:
        return ""


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence."""
    try:
        return list(dataset.get(keyword) or ())
    except Exception:
        return []


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (hasattr(value, "__iter__") and not isinstance(value, (str, bytes)))
