"""How many cores there are to share out."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may run on, which in a container or under ``taskset`` may not be all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
