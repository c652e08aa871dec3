"""Fills that come by the socket and by the Data API: at a gap's edge both tell of the same transaction.

Their rows differ: the socket prints each match, the Data API gives a taker's row with the mean price and the whole
size, so that their keys do too. What is compared is how much of a transaction each has told.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_REMEMBERED: Final = 10_000

Rest = Callable[[str, str, int], int]
"""(market id, transaction, size in micros) to the part of the size that nobody told yet."""


class ToldFills:
    """How much of each market's transactions was told by whom; the newest are remembered."""

    def __init__(self, capacity: int = _REMEMBERED) -> None:
        self._capacity = capacity
        self._printed: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._fetched: OrderedDict[tuple[str, str], int] = OrderedDict()

    def printed(self, market_id: str, transaction: str, size_micros: int) -> int:
        """A print of the socket; answers the part that no fetch has told. One without a transaction is all new."""
        if not transaction:
            return size_micros
        key = (market_id, transaction)
        known = min(size_micros, self._fetched.get(key, 0))
        if known:
            self._fetched[key] -= known
        self._keep(self._printed, key, self._printed.get(key, 0) + size_micros)
        return size_micros - known

    def fetch(self) -> Rest:
        """Begin to read a span: the same rows read again in another one are judged anew, and give the same."""
        printed_left: dict[tuple[str, str], int] = {}
        told: dict[tuple[str, str], int] = {}

        def rest(market_id: str, transaction: str, size_micros: int) -> int:
            if not transaction:
                return size_micros
            key = (market_id, transaction)
            left = printed_left.get(key, self._printed.get(key, 0))
            known = min(size_micros, left)
            printed_left[key] = left - known
            told[key] = told.get(key, 0) + size_micros - known
            self._keep(self._fetched, key, max(self._fetched.get(key, 0), told[key]))
            return size_micros - known

        return rest

    def _keep(self, table: "OrderedDict[tuple[str, str], int]", key: tuple[str, str], size_micros: int) -> None:
        table[key] = size_micros
        table.move_to_end(key)
        if len(table) > self._capacity:
            table.popitem(last=False)
