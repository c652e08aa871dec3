"""Polymarket: Gamma for the catalog, the CLOB's WebSocket for books and trades, the Data API for what was missed."""

from oddstream_server.venues.polymarket.adapter import PolymarketAdapter
from oddstream_server.venues.polymarket.config import PolymarketConfig

__all__ = ["PolymarketAdapter", "PolymarketConfig"]
