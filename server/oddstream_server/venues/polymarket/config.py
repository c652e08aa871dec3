"""Where Polymarket is and how it is asked. Limits and bounds are settings, since the venue changes them."""

import time
from dataclasses import dataclass, field

import aiohttp

from oddstream_server.application.ports import Clock
from oddstream_server.venues.http import HttpConfig, SessionFactory
from oddstream_server.venues.socket import SocketConfig


def _now_us() -> int:
    return time.time_ns() // 1_000


@dataclass(frozen=True, slots=True)
class PolymarketConfig:
    """Every read is public; no key is taken."""

    gamma_url: str = "https://gamma-api.polymarket.com"
    clob_url: str = "https://clob.polymarket.com"
    data_url: str = "https://data-api.polymarket.com"
    ws_url: str = "wss://ws-subscriptions-clob.polymarket.com/ws/market"
    prices_url: str = "wss://ws-live-data.polymarket.com"
    session_factory: SessionFactory = aiohttp.ClientSession
    clock: Clock = _now_us
    http: HttpConfig = field(default_factory=HttpConfig)
    socket: SocketConfig = field(default_factory=lambda: SocketConfig(text_ping="PING", text_pong="PONG"))
    price_socket: SocketConfig = field(
        default_factory=lambda: SocketConfig(
            text_ping="PING", text_pong="PONG", ping_interval_s=5.0, stale_after_s=15.0
        )
    )
    """Prices come once a second, now and then with gaps of some seconds."""
    requests_per_s: float = 20.0
    request_burst: float = 40.0
    breaker_threshold: int = 5
    breaker_rest_s: float = 15.0
    page_limit_events: int = 100
    page_limit_markets: int = 100
    page_limit_trades: int = 1000
    conditions_per_request: int = 50
    markets_per_connection: int = 250
    """Each market is two tokens on the socket."""
    mismatches_to_resnapshot: int = 3
    """Whole timestamps in a row after which our top differs from the best prices the venue names, until the book is
    taken anew."""
    status_interval_s: float = 30.0
    first_epoch: int | None = None
    """Epoch of the first books; by default the start's second, so that it grows across restarts."""
