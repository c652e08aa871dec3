"""Adapters of the venues: from a wire protocol to the markets, quotes, trades and settlements of the domain."""
