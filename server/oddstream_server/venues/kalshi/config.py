"""Where Kalshi is and how it is asked. Limits and bounds are settings, since the venue changes them."""

import time
from dataclasses import dataclass, field

import aiohttp

from oddstream_server.application.ports import Clock
from oddstream_server.venues.http import HttpConfig, SessionFactory
from oddstream_server.venues.socket import SocketConfig


def _now_us() -> int:
    return time.time_ns() // 1_000


@dataclass(frozen=True, slots=True)
class KalshiConfig:
    """Without a key the adapter polls the public REST endpoints; with one it follows the WebSocket."""

    rest_url: str = "https://external-api.kalshi.com/trade-api/v2"
    ws_url: str = "wss://external-api-ws.kalshi.com/trade-api/ws/v2"
    key_id: str | None = None
    private_key_pem: bytes | None = field(default=None, repr=False)
    session_factory: SessionFactory = aiohttp.ClientSession
    clock: Clock = _now_us
    http: HttpConfig = field(default_factory=HttpConfig)
    socket: SocketConfig = field(default_factory=SocketConfig)
    use_yes_price: bool = False
    """Sent with each book subscription: True when NO levels shall come in YES prices."""
    tokens_per_s: float = 100.0
    """Read budget: the basic tier allows 200 a second; half of it leaves room for a bot of the same account."""
    token_burst: float = 200.0
    request_cost: float = 10.0
    breaker_threshold: int = 5
    breaker_rest_s: float = 15.0
    page_limit_events: int = 200
    page_limit_markets: int = 1000
    page_limit_trades: int = 1000
    series_refresh_s: float = 3_600.0
    settled_look_back_s: float = 86_400.0
    """How far the first pass looks back for settled markets."""
    tickers_per_request: int = 100
    tickers_per_command: int = 100
    poll_interval_s: float = 5.0
    poll_patience_s: float = 15.0
    """After so long without an answer to a poll, retries included, the feed is told DOWN."""
    polling_grace_s: float = 5.0
    """With a key: how long a market may be without its socket (a reconnect) before it is polled."""
    status_interval_s: float = 30.0
    unchanged_repeat_s: float = 30.0
    """A polled quote that didn't change is pushed again after so long, to say that it still stands."""
    first_epoch: int | None = None
    """Epoch of the first books; by default the start's second, so that it grows across restarts."""
    balance_step_micros: int = 10_000
    """What the account's balance moves in since September 2026: 10_000, or 100 for direct members of the exchange."""

    @property
    def has_key(self) -> bool:
        return bool(self.key_id and self.private_key_pem)
