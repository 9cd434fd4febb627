"""``run --shard I/N``: the part of all inputs that one of N runs does, without a word between the runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..images.inputs import Item


@dataclass(frozen=True)
class Shard:
    """One of ``count`` parts.

    Attributes:
        number: of this part, from 1.
        count: of all parts.
    """

    number: int
    count: int

    def positions(self, items: Sequence[Item]) -> list[int]:
        """Which of all items are in this part, as indices in rising order.

        Items are dealt out in the order of their paths below the inputs. So neither the order of the inputs nor the
        place where a machine has them decides which part an item is in, and the parts of a folder differ by one item at
        most. The indices are those of the items in the order of the inputs: all runs need the same order.
        """
        dealt = sorted(range(len(items)), key=lambda index: items[index].relative.as_posix())
        return sorted(dealt[self.number - 1 :: self.count])

    def record(self, items: Sequence[Item]) -> dict[str, Any]:
        """What the report of this part says of it; :mod:`..results.merge` reads it.

        Args:
            items: of all parts.
        """
        names = "\0".join(item.relative.as_posix() for item in items)
        return {
            "number": self.number,
            "count": self.count,
            "inputs": len(items),
            "inputs_sha256": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
            "positions": self.positions(items),
        }


def parse_shard(text: str) -> Shard:
    """Read ``--shard``.

    Raises:
        UsageError: it is not I/N with I from 1 to N.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    shard = Shard(*map(int, found.groups())) if found else None
    if shard is None or not 1 <= shard.number <= shard.count:
        raise UsageError(f"--shard {text!r} is no part of a run; write I/N with I from 1 to N, such as 1/8")
    return shard
