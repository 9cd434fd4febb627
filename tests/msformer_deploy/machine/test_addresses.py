"""Which addresses are the loopback."""

from __future__ import annotations

import pytest

from msformer_deploy.errors import UsageError
from msformer_deploy.machine.addresses import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_the_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1"])
def test_addresses_that_others_reach(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1:80", "localhost.example.org", ""])
def test_what_is_no_address(host: str) -> None:
    with pytest.raises(UsageError) as raised:
        is_loopback(host)
    assert str(raised.value) == f"--host {host!r} is no IP address; give one of this computer, such as 127.0.0.1"
