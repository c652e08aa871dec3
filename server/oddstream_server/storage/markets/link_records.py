"""Links between markets: read and changed in the transaction of a review or of a changed rules text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
from sqlalchemy import or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from oddstream_server.domain.market import LinkState, Market, MarketLink
from oddstream_server.storage.database import Transaction
from oddstream_server.storage.markets.documents import document_of, link_of, market_of
from oddstream_server.storage.tables import market_links, markets

RULES_CHANGED = ("rules", "a rules text changed after the review")


class LinkRecords:
    """Fulfils :class:`~oddstream_server.application.ports.LinkRecords` in a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def get(self, link_id: str) -> tuple[MarketLink, Sequence[Market]] | None:
        core = self._transaction.core
        body = (await core.execute(select(market_links.c.body).where(market_links.c.link_id == link_id))).scalar()
        if body is None:
            return None
        ids = [link_of(body).market_id, link_of(body).other_market_id]
        # Markets before links, by id: as the catalog locks them.
        rows = await core.execute(
            select(markets).where(markets.c.market_id.in_(ids)).order_by(markets.c.market_id).with_for_update(read=True)
        )
        found = {row.market_id: market_of(row) for row in rows}
        body = (
            await core.execute(select(market_links.c.body).where(market_links.c.link_id == link_id).with_for_update())
        ).scalar_one()
        return link_of(body), [found[market_id] for market_id in ids if market_id in found]

    async def put(self, link: MarketLink) -> None:
        row = row_of(link)
        await self._transaction.core.execute(
            upsert(market_links).values(row).on_conflict_do_update(index_elements=["link_id"], set_=row)
        )
        if link.review_time_us is not None:
            await _remember(self._transaction, link, link.review_time_us)


def row_of(link: MarketLink) -> dict[str, object]:
    return {
        "link_id": link.link_id,
        "market_id": link.market_id,
        "other_market_id": link.other_market_id,
        "relation": link.relation.value,
        "state": link.state.value,
        "body": document_of(link),
    }


async def propose(transaction: Transaction, links: Sequence[MarketLink]) -> int:
    """Keep proposals; a link that is known already stays as it is. Answers how many were new."""
    if not links:
        return 0
    result = await transaction.core.execute(
        upsert(market_links)
        .values([row_of(link) for link in links])
        .on_conflict_do_nothing()
        .returning(market_links.c.link_id)
    )
    return len(result.all())


async def doubt(transaction: Transaction, rules: Mapping[str, str], now_us: int) -> None:
    """Send links back to PROPOSED whose rules are others by now.

    :param rules: digests of the rules texts of markets that were written.
    """
    c, ids = market_links.c, sorted(rules)
    rows = await transaction.core.execute(
        select(c.body)
        .where(or_(c.market_id.in_(ids), c.other_market_id.in_(ids)))
        .order_by(c.link_id)
        .with_for_update()
    )
    for body in rows.scalars().all():
        link = link_of(body)
        digests = (
            rules.get(link.market_id, link.rules_digest),
            rules.get(link.other_market_id, link.other_rules_digest),
        )
        if digests == (link.rules_digest, link.other_rules_digest):
            continue
        doubted = replace(
            link,
            rules_digest=digests[0],
            other_rules_digest=digests[1],
            state=LinkState.PROPOSED,
            reviewer="",
            note="",
            review_time_us=None,
            revision=link.revision + 1,
            evidence=(*(e for e in link.evidence if e != RULES_CHANGED), RULES_CHANGED),
        )
        await transaction.core.execute(
            update(market_links)
            .where(c.link_id == link.link_id)
            .values(state=doubted.state.value, body=document_of(doubted))
        )
        await _remember(transaction, doubted, now_us)


async def _remember(transaction: Transaction, link: MarketLink, now_us: int) -> None:
    """Backtests use a link as it was then."""
    await transaction.driver.execute(
        "INSERT INTO market_link_changes (link_id, revision, state, change_time) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (link_id, revision) DO UPDATE SET state = excluded.state, change_time = excluded.change_time",
        link.link_id,
        link.revision,
        link.state.value,
        now_us,
    )


async def link_histories(
    driver: "asyncpg.Connection[Any]", market_ids: Sequence[str]
) -> Sequence[tuple[MarketLink, Sequence[tuple[int, LinkState]]]]:
    """Links between some markets that were ever confirmed, by id, with (from, state) in the order of the changes."""
    rows = await driver.fetch(
        "SELECT body::text, array_agg(change_time ORDER BY revision), array_agg(c.state ORDER BY revision) "
        "FROM market_links AS l JOIN market_link_changes AS c USING (link_id) "
        "WHERE market_id = ANY($1::text[]) AND other_market_id = ANY($1::text[]) "
        "GROUP BY link_id HAVING bool_or(c.state = 'confirmed') ORDER BY link_id",
        list(market_ids),
    )
    return [
        (link_of(json.loads(body)), [(time, LinkState(state)) for time, state in zip(times, states, strict=True)])
        for body, times, states in rows
    ]
