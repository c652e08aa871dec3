"""The venues as servers: simulated or recorded data in each venue's own wire protocol, with faults on demand.

:class:`~tests.emulator.stage.Stage` holds the world; :class:`~tests.emulator.kalshi.KalshiEmulator` and
:class:`~tests.emulator.polymarket.PolymarketEmulator` serve it over real sockets, so that the real adapters are what
runs. :mod:`tests.emulator.faults` has what can go wrong.
"""
