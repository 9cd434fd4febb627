"""Which addresses processes listen on, as Linux says it."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from scripts import load

LISTENS = "0A"


def listening(process: int) -> set[str]:
    """Addresses on which a process, or one that it has started, listens; without their ports."""
    inodes = {inode for each in load("cluster").tree(process) for inode in _sockets(each)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS and fields[9] in inodes:
                found.add(_address(fields[1].partition(":")[0]))
    return found


def _sockets(process: int) -> list[str]:
    folder, found = Path("/proc", str(process), "fd"), []
    try:
        for link in folder.iterdir():
            target = os.readlink(link)
            if target.startswith("socket:["):
                found.append(target[8:-1])
    except OSError:  # it has ended
        return found
    return found


def _address(digits: str) -> str:
    """The kernel writes words of four bytes, each with its last byte first."""
    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return str(getattr(address, "ipv4_mapped", None) or address)
