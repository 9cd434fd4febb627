"""Where a service listens. Nothing here listens on anything but the loopback."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")

from msformer_deploy.errors import UsageError
from msformer_deploy.service.server import address_of, open_socket, require_protected

LOOPBACK = ("127.0.0.1", "127.1.2.3", "::1", "localhost")
OTHERS = ("0.0.0.0", "::", "192.0.2.1", "2001:db8::1")


@pytest.mark.parametrize("host", LOOPBACK)
def test_the_loopback_needs_no_key(host: str) -> None:
    require_protected(host, None, insecure=False)


@pytest.mark.parametrize("host", OTHERS)
def test_other_addresses_need_a_key_or_a_word(host: str) -> None:
    with pytest.raises(UsageError, match="without a key; pass --api-key-file FILE, or --insecure"):
        require_protected(host, None, insecure=False)
    require_protected(host, "0123456789abcdef", insecure=False)
    require_protected(host, None, insecure=True)


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1:80", ""])
def test_what_is_no_address(host: str) -> None:
    with pytest.raises(UsageError, match="is no IP address"):
        require_protected(host, "0123456789abcdef", insecure=True)


def test_the_address_has_the_port_that_was_free() -> None:
    with open_socket("127.0.0.1", 0) as listening:
        assert address_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert listening.getsockname()[1] > 0
