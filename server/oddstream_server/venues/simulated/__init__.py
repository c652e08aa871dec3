"""The simulated venue: a seeded, realistic world of events, books, trades and settlements to try bots on.

:class:`SimulatedConfig` says what is in the world, :class:`SimulatedVenue` is its venue adapter, :class:`Feed` is what
a subscriber receives without I/O or clock, and :class:`World` is the truth behind it.
"""

from oddstream_server.venues.simulated.adapter import SimulatedVenue
from oddstream_server.venues.simulated.config import SimulatedConfig
from oddstream_server.venues.simulated.feed import Feed
from oddstream_server.venues.simulated.world import World

__all__ = ["Feed", "SimulatedConfig", "SimulatedVenue", "World"]
