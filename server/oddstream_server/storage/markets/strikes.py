"""Strikes that become known while a market lives, e.g. the price at the start of its window."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from sqlalchemy import select

from oddstream_server.domain.market import Market, Strike
from oddstream_server.storage.database import Transaction
from oddstream_server.storage.tables import markets


async def with_known_strikes(
    transaction: Transaction, batch: Sequence[Market], stored: Collection[str]
) -> Sequence[Market]:
    """The markets with the strikes that became known since whoever describes them read them."""
    open_ends = {
        m.market_id
        for m in batch
        if m.market_id in stored and m.strike is not None and m.strike.opening_time_us is not None
        if m.strike.floor_micros is None
    }
    if not open_ends:
        return batch
    found = await transaction.core.execute(
        select(markets.c.market_id, markets.c.body["strike"]).where(markets.c.market_id.in_(sorted(open_ends)))
    )
    known = {market_id: Strike(**body) for market_id, body in found if body is not None}
    return [
        replace(m, strike=replace(m.strike, floor_micros=before.floor_micros))
        if m.strike is not None
        and (before := known.get(m.market_id)) is not None
        and before.opening_time_us == m.strike.opening_time_us
        else m
        for m in batch
    ]
