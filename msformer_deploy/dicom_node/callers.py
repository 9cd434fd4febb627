"""Who may send to the node: application entities by their titles and addresses."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ..errors import UsageError

ANY = "*"
LONGEST_TITLE = 16  # characters of an AE title (PS3.5, 6.2)


@dataclass(frozen=True)
class Caller:
    """One that may send.

    Attributes:
        title: its AE title; ``*`` for any.
        network: its address, or a network of addresses; None for any.
    """

    title: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None

    @property
    def everybody(self) -> bool:
        """Whether it is any title from any address."""
        return self.title == ANY and self.network is None

    def matches(self, title: str, address: str) -> bool:
        """Whether an association with this title and from this address is of the caller."""
        if self.title not in (ANY, title.strip()):
            return False
        if self.network is None:
            return True
        found = ipaddress.ip_address(address.partition("%")[0])  # without the interface of a link-local address
        mapped = getattr(found, "ipv4_mapped", None)  # as a socket of IPv6 shows those of IPv4
        return (mapped or found) in self.network


def parse_caller(text: str) -> Caller:
    """Read ``--allow``: ``AE@ADDRESS``, where either may be ``*`` and the address may be a network.

    Raises:
        UsageError: it is of another form.
    """
    title, separator, place = text.partition("@")
    if not separator or not place:
        raise UsageError(
            f"--allow {text!r} is not of the form AE@ADDRESS, such as SCANNER@192.168.1.20 or *@10.0.0.0/8"
        )
    if place == ANY:
        return Caller(parse_title(title, "--allow"), None)
    try:
        network = ipaddress.ip_network(place, strict=False)
    except ValueError:
        raise UsageError(
            f"--allow {text!r}: {place!r} is not an IP address; give an address, a network such as 10.0.0.0/8, or *"
        ) from None
    return Caller(parse_title(title, "--allow"), network)


def parse_title(text: str, option: str) -> str:
    """Check an AE title.

    Raises:
        UsageError: it is empty, too long, or has a character that a title must not have.
    """
    title = text.strip()
    if not 0 < len(title) <= LONGEST_TITLE or not title.isascii() or not title.isprintable() or "\\" in title:
        raise UsageError(f"{option}: {text!r} is not an AE title; give 1 to {LONGEST_TITLE} ASCII characters")
    return title
