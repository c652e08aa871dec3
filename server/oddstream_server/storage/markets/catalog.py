"""Events and markets as venues describe them, every text of their rules, their settlements, and links between them."""

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    bindparam,
    false,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from oddstream_server.application.ports import (
    CatalogChange,
    EventFilter,
    Key,
    MarketFilter,
    MarketLinkFilter,
    Page,
    SettlementUpdate,
)
from oddstream_server.domain.market import (
    Event,
    Market,
    MarketLink,
    MarketState,
    Settlement,
    SettlementState,
    Venue,
)
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.markets import link_records
from oddstream_server.storage.markets.documents import (
    digest_of,
    document_of,
    event_body,
    event_of,
    link_of,
    market_body,
    market_of,
    settlement_of,
)
from oddstream_server.storage.markets.held_markets import HeldMarkets
from oddstream_server.storage.markets.strikes import with_known_strikes
from oddstream_server.storage.tables import events, market_links, market_rules, markets, settlements

_ROWS_A_STATEMENT = 500
_STREAM_PAGE = 500
_ALIVE = (MarketState.UNOPENED, MarketState.OPEN, MarketState.PAUSED, MarketState.CLOSED)


@dataclass(frozen=True, slots=True)
class MarketRules:
    """One text that a market's rules had."""

    rules_digest: str
    rules_text: str
    first_seen_time_us: int


class CatalogStore:
    """Fulfils :class:`~oddstream_server.application.ports.Catalog`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held = HeldMarkets()

    # --- writing ---

    async def upsert(self, events: Sequence[Event], markets: Sequence[Market], now_us: int) -> CatalogChange:
        """Take a venue's description of events and markets.

        Volume and open interest move all the time: they are kept up to date, but by themselves they are no change
        and don't touch ``update_time``. A settlement once known is not lost to a page that doesn't tell it, and such
        a page doesn't bring a settled market back to life. Neither is a strike that is the price of an instant.
        """
        change = CatalogChange(0, 0, 0)
        # By id, so that two writers wait for each other instead of dying of a deadlock. The last of equal ids counts.
        sorted_events = sorted({e.event_id: e for e in events}.values(), key=lambda e: e.event_id)
        sorted_markets = sorted({m.market_id: m for m in markets}.values(), key=lambda m: m.market_id)
        async with self._database.transaction() as transaction:
            for some_events in _chunks(sorted_events):
                change = _sum(change, await self._upsert_events(transaction, some_events, now_us))
            for some_markets in _chunks(sorted_markets):
                change = _sum(change, await self._upsert_markets(transaction, some_markets, now_us))
        return change

    async def record_settlements(self, updates: Sequence[SettlementUpdate], now_us: int) -> Sequence[str]:
        """See the port. A market that the catalog doesn't know is left out."""
        latest = {u.market_id: u for u in updates}
        changed: list[str] = []
        async with self._database.transaction() as transaction:
            rows = await transaction.core.execute(
                select(markets.c.market_id, markets.c.state, markets.c.settlement)
                .where(markets.c.market_id.in_(sorted(latest)))
                .order_by(markets.c.market_id)
                .with_for_update()
            )
            for row in rows.all():
                wanted = latest[row.market_id]
                state, settlement = _settled(row, wanted.state, wanted.settlement, now_us)
                if state is not MarketState(row.state) or _settlement_of(row) != settlement:
                    await self._settle(transaction, row, state, settlement, now_us)
                    changed.append(row.market_id)
        return changed

    async def save_link(self, link: MarketLink) -> None:
        """Keep a link as it is."""
        async with self._database.transaction() as transaction:
            await link_records.LinkRecords(transaction).put(link)

    async def propose_links(self, links: Sequence[MarketLink]) -> int:
        """See the port."""
        async with self._database.transaction() as transaction:
            return await link_records.propose(transaction, links)

    async def _upsert_events(self, transaction: Transaction, batch: Sequence[Event], now_us: int) -> CatalogChange:
        stored = {
            row.event_id: bytes(row.digest)
            for row in await transaction.core.execute(
                select(events.c.event_id, events.c.digest).where(events.c.event_id.in_([e.event_id for e in batch]))
            )
        }
        rows = []
        for event in batch:
            body = event_body(event)
            digest = digest_of(body)
            if stored.get(event.event_id) != digest:
                rows.append(
                    {
                        "event_id": event.event_id,
                        "venue": event.venue.value,
                        "category": event.category,
                        "series_id": event.series_id,
                        "title": event.title,
                        "body": body,
                        "digest": digest,
                        "create_time": now_us,
                        "update_time": now_us,
                    }
                )
        await _upsert_all(transaction, events, "event_id", rows)
        created = sum(row["event_id"] not in stored for row in rows)
        return CatalogChange(created, len(rows) - created, len(batch) - len(rows))

    async def _upsert_markets(self, transaction: Transaction, batch: Sequence[Market], now_us: int) -> CatalogChange:
        stored = {
            row.market_id: row
            for row in await transaction.core.execute(
                select(
                    markets.c.market_id,
                    markets.c.digest,
                    markets.c.state,
                    markets.c.settlement,
                    markets.c.volume_micros,
                    markets.c.open_interest_micros,
                )
                .where(markets.c.market_id.in_([m.market_id for m in batch]))
                .order_by(markets.c.market_id)
                .with_for_update()
            )
        }
        batch = await with_known_strikes(transaction, batch, stored.keys())
        rows: list[dict[str, Any]] = []
        rules: list[dict[str, Any]] = []
        activity: list[dict[str, Any]] = []
        settled: list[tuple[Any, MarketState, Settlement | None]] = []
        for market in batch:
            known = stored.get(market.market_id)
            body = market_body(market)
            digest = digest_of(body)
            if known is None:
                state, settlement = market.state, _first_revision(market.settlement, now_us)
            else:
                state, settlement = _settled(known, market.state, market.settlement, now_us)
            if known is None or bytes(known.digest) != digest:
                rows.append(_market_row(market, body, digest, now_us))
                rules.append(
                    {
                        "market_id": market.market_id,
                        "rules_digest": market.rules_digest,
                        "rules_text": market.rules_text,
                        "first_seen_time": now_us,
                    }
                )
            settles = settlement != (None if known is None else _settlement_of(known))
            if known is not None and (settles or state is not MarketState(known.state)):
                settled.append((known, state, settlement))
            elif known is None and settlement is not None:
                settled.append((market, state, settlement))
            if known is not None and (market.volume_micros, market.open_interest_micros) != (
                known.volume_micros,
                known.open_interest_micros,
            ):
                activity.append(
                    {
                        "id": market.market_id,
                        "volume": market.volume_micros,
                        "open_interest": market.open_interest_micros,
                    }
                )
        changed = {row["market_id"] for row in rows} | {known.market_id for known, _, _ in settled}
        await _upsert_all(
            transaction, markets, "market_id", rows, keep=("state", "volume_micros", "open_interest_micros")
        )
        if rules:
            await transaction.core.execute(upsert(market_rules).on_conflict_do_nothing(), rules)
            await link_records.doubt(transaction, {row["market_id"]: row["rules_digest"] for row in rules}, now_us)
        for known, state, settlement in settled:
            await self._settle(transaction, known, state, settlement, now_us)
        if activity:
            await transaction.core.execute(
                update(markets)
                .where(markets.c.market_id == bindparam("id"))
                .values(volume_micros=bindparam("volume"), open_interest_micros=bindparam("open_interest")),
                activity,
            )
        created = len(changed - stored.keys())
        return CatalogChange(created, len(changed) - created, len(batch) - len(changed))

    async def _settle(
        self, transaction: Transaction, known: Any, state: MarketState, settlement: Settlement | None, now_us: int
    ) -> None:
        await transaction.core.execute(
            update(markets)
            .where(markets.c.market_id == known.market_id)
            .values(
                state=state.value,
                settlement=None if settlement is None else document_of(settlement),
                update_time=now_us,
            )
        )
        if settlement is not None:
            await transaction.core.execute(
                upsert(settlements)
                .values(
                    market_id=known.market_id,
                    revision=settlement.revision,
                    market_state=state.value,
                    settlement_state=settlement.state.value,
                    yes_payout_micros=settlement.yes_payout_micros,
                    void=settlement.void,
                    determined_time=settlement.determined_time_us,
                    known_time=settlement.known_time_us,
                    paid_time=settlement.paid_time_us,
                )
                .on_conflict_do_nothing()
            )

    # --- reading ---

    async def markets_by_id(self, market_ids: Sequence[str]) -> Mapping[str, Market]:
        return await self._database.read_at_once(lambda driver: self._held.read(driver, market_ids))

    async def list_markets(self, where: MarketFilter, after: Key | None, limit: int) -> Page[Market]:
        """Markets by id. ``where.text``: each of its words begins a word of the title, in any case."""
        statement = select(markets).where(*_market_conditions(where))

        async def work(transaction: Transaction) -> Page[Market]:
            rows = await _page_rows(transaction, statement, markets.c.market_id, after, limit)
            return _page([market_of(row) for row in rows], [row.market_id for row in rows], limit)

        return await self._database.read(work)

    async def events_by_id(self, event_ids: Sequence[str]) -> Mapping[str, Event]:
        async def work(transaction: Transaction) -> Mapping[str, Event]:
            rows = (await transaction.core.execute(select(events).where(events.c.event_id.in_(list(event_ids))))).all()
            return {event.event_id: event for event in await _with_markets(transaction, rows)}

        return await self._database.read(work)

    async def list_events(self, where: EventFilter, after: Key | None, limit: int) -> Page[Event]:
        """Events by id. ``where.text`` as for markets."""
        statement = select(events).where(*_event_conditions(where))

        async def work(transaction: Transaction) -> Page[Event]:
            rows = await _page_rows(transaction, statement, events.c.event_id, after, limit)
            found = await _with_markets(transaction, rows)
            return _page(found, [row.event_id for row in rows], limit)

        return await self._database.read(work)

    async def list_links(self, where: MarketLinkFilter, after: Key | None, limit: int) -> Page[MarketLink]:
        """Links by id."""
        c = market_links.c
        statement = select(market_links).where(
            *_matching((c.state, [s.value for s in where.states]), (c.relation, [r.value for r in where.relations]))
        )
        if where.market_ids:
            statement = statement.where(or_(c.market_id.in_(where.market_ids), c.other_market_id.in_(where.market_ids)))
        for side in (c.market_id, c.other_market_id) if where.within_venues else ():
            statement = statement.where(or_(*(side.startswith(f"{venue.value}:") for venue in where.within_venues)))

        async def work(transaction: Transaction) -> Page[MarketLink]:
            rows = await _page_rows(transaction, statement, market_links.c.link_id, after, limit)
            return _page([link_of(row.body) for row in rows], [row.link_id for row in rows], limit)

        return await self._database.read(work)

    async def rules_history(self, market_id: str) -> Sequence[MarketRules]:
        """Every text that the market's rules had, in the order in which they were first seen."""

        async def work(transaction: Transaction) -> Sequence[MarketRules]:
            rows = await transaction.core.execute(
                select(market_rules)
                .where(market_rules.c.market_id == market_id)
                .order_by(market_rules.c.first_seen_time, market_rules.c.rules_digest)
            )
            return [MarketRules(r.rules_digest, r.rules_text, r.first_seen_time) for r in rows]

        return await self._database.read(work)

    async def settlement_history(self, market_id: str) -> Sequence[Settlement]:
        """Every revision of the market's settlement, first to last."""

        async def work(transaction: Transaction) -> Sequence[Settlement]:
            rows = await transaction.core.execute(
                select(settlements).where(settlements.c.market_id == market_id).order_by(settlements.c.revision)
            )
            return [
                Settlement(
                    state=SettlementState(r.settlement_state),
                    yes_payout_micros=r.yes_payout_micros,
                    revision=r.revision,
                    determined_time_us=r.determined_time,
                    known_time_us=r.known_time,
                    paid_time_us=r.paid_time,
                    void=r.void,
                )
                for r in rows
            ]

        return await self._database.read(work)

    async def all_markets(self, states: Sequence[MarketState], venues: Sequence[Venue]) -> AsyncIterator[Market]:
        """By id, 500 at a time; empty means any."""
        where = MarketFilter(venues=tuple(venues), states=tuple(states))
        after: Key | None = None
        while True:
            page = await self.list_markets(where, after, _STREAM_PAGE)
            for market in page.items:
                yield market
            if page.next_key is None:
                return
            after = page.next_key


def _market_row(market: Market, body: dict[str, Any], digest: bytes, now_us: int) -> dict[str, Any]:
    return {
        "market_id": market.market_id,
        "venue": market.venue.value,
        "event_id": market.event_id,
        "state": market.state.value,
        "category": market.category,
        "series_id": market.series_id,
        "title": market.title,
        "close_time": market.close_time_us,
        "volume_micros": market.volume_micros,
        "open_interest_micros": market.open_interest_micros,
        "body": body,
        "digest": digest,
        "create_time": now_us,
        "update_time": now_us,
    }


async def _upsert_all(
    transaction: Transaction, table: Any, key: str, rows: list[dict[str, Any]], keep: tuple[str, ...] = ()
) -> None:
    if not rows:
        return
    statement = upsert(table)
    fresh = {name: statement.excluded[name] for name in rows[0] if name not in (key, "create_time", *keep)}
    await transaction.core.execute(statement.on_conflict_do_update(index_elements=[key], set_=fresh), rows)


def _settled(
    known: Any, state: MarketState, settlement: Settlement | None, now_us: int
) -> tuple[MarketState, Settlement | None]:
    """State and settlement of a stored market after a venue's word; a differing settlement gets the next revision."""
    stored = _settlement_of(known)
    if stored is None:
        return state, _first_revision(settlement, now_us)
    if settlement is None:
        return (MarketState(known.state) if state in _ALIVE else state), stored
    same = replace(settlement, revision=stored.revision, known_time_us=stored.known_time_us)
    if same == stored:
        return state, stored
    paid_differently = (settlement.yes_payout_micros, settlement.void) != (stored.yes_payout_micros, stored.void)
    amended = paid_differently and stored.state is not SettlementState.PROVISIONAL
    return state, replace(
        settlement,
        state=SettlementState.AMENDED if amended else settlement.state,
        revision=stored.revision + 1,
        known_time_us=settlement.known_time_us or now_us,
    )


def _first_revision(settlement: Settlement | None, now_us: int) -> Settlement | None:
    if settlement is None:
        return None
    return replace(settlement, revision=1, known_time_us=settlement.known_time_us or now_us)


def _settlement_of(row: Any) -> Settlement | None:
    return None if row.settlement is None else settlement_of(row.settlement)


def _market_conditions(where: MarketFilter) -> list[ColumnElement[bool]]:
    c = markets.c
    found = _matching(
        (c.venue, [v.value for v in where.venues]),
        (c.event_id, where.event_ids),
        (c.state, [s.value for s in where.states]),
        (c.category, where.categories),
        (c.series_id, where.series_ids),
    )
    if where.close_time_from_us is not None:
        found.append(c.close_time >= where.close_time_from_us)
    if where.close_time_to_us is not None:
        found.append(c.close_time < where.close_time_to_us)
    return found + _title_words(c.title, where.text)


def _event_conditions(where: EventFilter) -> list[ColumnElement[bool]]:
    c = events.c
    found = _matching(
        (c.venue, [v.value for v in where.venues]),
        (c.category, where.categories),
        (c.series_id, where.series_ids),
    )
    return found + _title_words(c.title, where.text)


def _matching(*wanted: tuple[Any, Sequence[str]]) -> list[ColumnElement[bool]]:
    # A single value as an equality: then the index on (column, id) gives the page in order.
    return [c == v[0] if len(v) == 1 else c.in_(v) for c, v in wanted if v]


def _title_words(title: Any, wanted: str) -> list[ColumnElement[bool]]:
    if not wanted:
        return []
    words = re.findall(r"\w+", wanted.lower())
    if not words:
        return [false()]  # signs alone begin no word; answering everything would be a surprise
    query = " & ".join(f"{word}:*" for word in words)
    simple: ColumnElement[Any] = literal_column("'simple'::regconfig")
    return [func.to_tsvector(simple, title).bool_op("@@")(func.to_tsquery(simple, query))]


async def _page_rows(
    transaction: Transaction, statement: Select[Any], key: Any, after: Key | None, limit: int
) -> list[Any]:
    if after is not None:
        statement = statement.where(key > str(after[0]))
    return list((await transaction.core.execute(statement.order_by(key).limit(limit + 1))).all())


def _page(items: list[Any], ids: list[str], limit: int) -> Page[Any]:
    more = len(items) > limit
    return Page(tuple(items[:limit]), (ids[limit - 1],) if more else None)


async def _with_markets(transaction: Transaction, rows: Sequence[Any]) -> list[Event]:
    ids = [row.event_id for row in rows]
    found: dict[str, list[str]] = {event_id: [] for event_id in ids}
    if ids:
        members = await transaction.core.execute(
            select(markets.c.event_id, markets.c.market_id)
            .where(markets.c.event_id.in_(ids))
            .order_by(markets.c.event_id, markets.c.market_id)
        )
        for row in members:
            found[row.event_id].append(row.market_id)
    return [event_of(row, tuple(found[row.event_id])) for row in rows]


def _chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    for start in range(0, len(items), _ROWS_A_STATEMENT):
        yield items[start : start + _ROWS_A_STATEMENT]


def _sum(first: CatalogChange, second: CatalogChange) -> CatalogChange:
    return CatalogChange(
        first.created + second.created, first.updated + second.updated, first.unchanged + second.unchanged
    )
