"""Kalshi: REST for the catalog and for polling without a key, the WebSocket with one."""

from oddstream_server.venues.kalshi.adapter import KalshiAdapter
from oddstream_server.venues.kalshi.config import KalshiConfig

__all__ = ["KalshiAdapter", "KalshiConfig"]
