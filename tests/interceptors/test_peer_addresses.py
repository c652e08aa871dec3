"""From gRPC's peer string and forwarded headers to the address that limits and scopes see."""

import pytest

from oddstream_server.application.calls.request import network_of
from oddstream_server.interceptors.request_context import PeerAddresses, traceparent_of

DIRECT = PeerAddresses()
BEHIND = PeerAddresses(("10.0.0.0/8", "2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:203.0.113.7:51000", "203.0.113.7"),
        ("ipv6:%5B2001:db8::1%5D:51000", "2001:db8::1"),
        ("ipv6:[::1]:51000", "::1"),
        ("ipv6:%5B::ffff:203.0.113.7%5D:51000", "203.0.113.7"),
        ("ipv6:[fe80::1%25eth0]:51000", "fe80::1"),
        ("unix:/run/oddstream.sock", "unix"),
        ("ipv6:[not an address]:1", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_peer_string_is_read(peer: str, address: str) -> None:
    assert DIRECT.address_of(peer, None) == address


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("ipv4:10.1.2.3:1", "203.0.113.7", "203.0.113.7"),
        ("ipv4:10.1.2.3:1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("ipv4:10.1.2.3:1", "203.0.113.7, 10.9.9.9", "203.0.113.7"),
        ("ipv4:10.1.2.3:1", "10.8.8.8, 10.9.9.9", "10.8.8.8"),
        ("ipv4:10.1.2.3:1", "203.0.113.7, nonsense", "10.1.2.3"),
        ("ipv4:10.1.2.3:1", None, "10.1.2.3"),
        ("ipv4:203.0.113.9:1", "198.51.100.1", "203.0.113.9"),
        ("ipv6:%5B2001:db8::5%5D:1", "198.51.100.1", "198.51.100.1"),
        ("ipv6:%5B::ffff:10.1.2.3%5D:1", "198.51.100.1", "198.51.100.1"),
    ],
)
def test_only_trusted_proxies_may_name_another_address(peer: str, forwarded: str | None, address: str) -> None:
    assert BEHIND.address_of(peer, forwarded) == address
    assert DIRECT.address_of(peer, forwarded) == DIRECT.address_of(peer, None)


def test_logs_see_a_network_and_no_address() -> None:
    assert network_of("203.0.113.7") == "203.0.113.0/24"
    assert network_of("2001:db8:1:2::3") == "2001:db8:1::/48"
    assert network_of("unix") == "unix"


def test_a_trace_of_our_own_is_well_formed() -> None:
    version, trace, span, flags = traceparent_of(None, "1" * 48).split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "00")
