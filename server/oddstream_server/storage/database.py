"""The pool, and the only two ways to a connection: ``transaction()`` to write and ``reading()`` to read.

Both open a real transaction in one round trip that also carries what is left of the caller's deadline as
``statement_timeout`` and the correlation id as a comment and as the application name, so that a slow query in
``pg_stat_activity`` or in PostgreSQL's log leads back to its call. Both are safe to cancel: the server is told to stop
the query, the transaction is rolled back, and only then does the connection go back to the pool.
"""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import orjson
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from oddstream_server.application.calls.request import correlation_id, remaining_seconds
from oddstream_server.domain.errors import Aborted, DeadlineExceeded, OddstreamError, Unavailable
from oddstream_server.storage.connector import Connector, DatabaseLogins
from oddstream_server.storage.spare_connection import HeldConnection, SpareConnection
from oddstream_server.storage.writes import CACHEABLE_BYTES

T = TypeVar("T")

READ_RETRY_BUDGET_SECONDS = 2.5
"""A restart of PostgreSQL takes well under a second; a reader waits this long before it is told."""
_TRUSTED_SECONDS = 1.0
"""How long after its last use a connection is taken without asking whether it answers."""
_ANSWERED_AT = "answered_at"

_POSTGRES_EPOCH_US = 946_684_800_000_000
_AWAY = frozenset({"57P01", "57P02", "57P03", "08000", "08001", "08003", "08006", "25P03", "57P05"})
_CONFLICT = frozenset({"40001", "40P01", "55P03"})
_FULL = frozenset({"53100", "53200", "53300", "53400"})
_LOGIN_REFUSED = frozenset({"28P01", "28000"})


class DatabaseAway(Unavailable):
    """The connection was refused or lost: the same read may well succeed on a new one."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One open transaction, by SQLAlchemy Core and by the driver: both speak on the same connection."""

    core: AsyncConnection
    driver: "asyncpg.Connection[Any]"


class Database:
    """A pool of connections to one PostgreSQL.

    :param url: ``postgresql://user:password@host:port/name``; a socket folder as ``?host=/folder``.
    :param tls: for a database over a network; None speaks plaintext.
    :param logins: where user and password come from at each new connection; None takes the URL's.
    :param role: taken on in each session, so that tables have one owner whatever the login's name.
    :param transaction_pooler: True behind pgbouncer in transaction mode: no prepared statement outlives a transaction.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 6,
        max_overflow: int = 4,
        pool_timeout_seconds: float = 3.0,
        recycle_seconds: int = 1_800,
        application_name: str = "oddstream",
        transaction_pooler: bool = False,
        tls: ssl.SSLContext | None = None,
        logins: DatabaseLogins | None = None,
        role: str | None = None,
    ) -> None:
        self.connector = Connector(url, tls=tls, logins=logins, role=role)
        self.maximum_connections = pool_size + max_overflow
        self.application_name = application_name
        connect_args: dict[str, Any] = {
            "timeout": 5,
            "async_creator_fn": self.connector,
            "server_settings": {"application_name": application_name, "timezone": "UTC"},
        }
        if not transaction_pooler:
            connect_args["max_cacheable_statement_size"] = CACHEABLE_BYTES
            # A query whose client has gone ends by itself, within a second.
            connect_args["server_settings"]["client_connection_check_interval"] = "1s"
            # One that stands still in the middle of a transaction holds everybody up who needs its locks.
            connect_args["server_settings"]["idle_in_transaction_session_timeout"] = "60s"
        else:
            connect_args |= {
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: "",
            }
        self._engine: AsyncEngine = create_async_engine(
            self.connector.url,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=pool_timeout_seconds,
            pool_recycle=recycle_seconds,
            # BEGIN and COMMIT are sent below, each with what belongs to it in one round trip.
            isolation_level="AUTOCOMMIT",
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            connect_args=connect_args,
        )
        event.listen(self._engine.sync_engine, "connect", _exact_instants)
        event.listen(self._engine.sync_engine, "checkin", _trusted_from_now)
        event.listen(self._engine.sync_engine, "checkout", self._still_good)
        self._closings: set[asyncio.Task[None]] = set()
        self._spare = SpareConnection(self._usable, self._give_back)

    async def close(self) -> None:
        """Let running clean-ups end and close every connection."""
        if (spare := self._spare.take()) is not None:
            await spare.pooled.close()
        if self._closings:
            await asyncio.gather(*self._closings, return_exceptions=True)
        await self._engine.dispose()

    def connections_in_use(self) -> int:
        return self._checked_out() - self._spare.at_hand

    def _checked_out(self) -> int:
        return int(self._engine.pool.checkedout())  # type: ignore[attr-defined]  # every queue pool has it

    @asynccontextmanager
    async def transaction(
        self,
        *,
        timeout_seconds: float | None = None,
        isolation: str = "READ COMMITTED",
        read_only: bool = False,
        first: str = "",
    ) -> AsyncIterator[Transaction]:
        """Commit at the end, roll back on any exception.

        :param timeout_seconds: bound of each statement; what is left of the call's deadline where that is less.
        :param first: a constant statement that goes with BEGIN in the same round trip.
        :raises Unavailable: the database is away, busy or full.
        :raises DeadlineExceeded: it was too slow.
        :raises Aborted: a conflict with another transaction.
        """
        with _translated():
            connection = await self._connected()
            try:
                raw = (await connection.get_raw_connection()).driver_connection
                assert isinstance(raw, asyncpg.Connection)
                await raw.execute(self._begin(timeout_seconds, isolation, read_only) + (f"; {first}" if first else ""))
                yield Transaction(connection, raw)
                await raw.execute("COMMIT")
            except BaseException:
                await self._finish(connection, failed=True)
                raise
            await self._finish(connection, failed=False)

    @asynccontextmanager
    async def reading(
        self, *, timeout_seconds: float | None = None, snapshot: bool = False
    ) -> AsyncIterator[Transaction]:
        """A read-only transaction.

        :param snapshot: every statement sees the same instant.
        """
        isolation = "REPEATABLE READ" if snapshot else "READ COMMITTED"
        async with self.transaction(
            timeout_seconds=timeout_seconds, isolation=isolation, read_only=True
        ) as transaction:
            yield transaction

    async def read(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        timeout_seconds: float | None = None,
        snapshot: bool = False,
    ) -> T:
        """Run a read, again on a new connection while the database is away, for at most 2.5 s.

        :param work: what to read; must be free of effects, since it may run more than once.
        """

        async def once() -> T:
            async with self.reading(timeout_seconds=timeout_seconds, snapshot=snapshot) as transaction:
                return await work(transaction)

        return await self._again_while_away(once)

    async def read_at_once(self, work: "Callable[[asyncpg.Connection[Any]], Awaitable[T]]") -> T:
        """As :meth:`read`, for one statement that is its own transaction: two round trips less, and the next one finds
        its connection at hand. What is left of the call's deadline bounds it from here. The statement goes without the
        call's id in front of it, since it is prepared; it can take the id as a parameter, as
        :class:`~oddstream_server.storage.markets.held_markets.HeldMarkets` does.

        :param work: makes one SELECT, and leaves nothing set on the connection.
        """

        async def once() -> T:
            left = remaining_seconds()
            if left is not None and left <= 0:
                raise DeadlineExceeded("the call's deadline passed before the database was asked")
            with _translated():
                held = self._spare.take() or await self._held()
                try:
                    async with asyncio.timeout(left):
                        found = await work(held.driver)
                except TimeoutError:
                    await self._finish(held.pooled, failed=True)
                    raise DeadlineExceeded("the database did not answer in time") from None
                except BaseException:
                    await self._finish(held.pooled, failed=True)
                    raise
                if self._spare.at_hand or self._checked_out() >= self.maximum_connections:  # somebody may wait for it
                    await self._finish(held.pooled, failed=False)
                else:
                    self._spare.keep(held)
                return found

        return await self._again_while_away(once)

    async def _held(self) -> HeldConnection:
        connection = await self._connected()
        try:
            raw = (await connection.get_raw_connection()).driver_connection
            assert isinstance(raw, asyncpg.Connection)
        except BaseException:
            await self._finish(connection, failed=True)
            raise
        return HeldConnection(connection, raw)

    async def _again_while_away(self, once: Callable[[], Awaitable[T]]) -> T:
        give_up = time.monotonic() + READ_RETRY_BUDGET_SECONDS
        pause = 0.02
        while True:
            try:
                return await once()
            except DatabaseAway:
                if time.monotonic() + pause > give_up:
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.25)

    def _still_good(self, dbapi_connection: Any, record: Any, _proxy: object) -> None:
        """Raising makes the pool open a new connection, with a new login.

        One that answered a moment ago isn't asked again: that would be a round trip before every transaction. The
        driver itself notices a server that hangs up.
        """
        if not self._usable(dbapi_connection.driver_connection):
            raise exc.DisconnectionError
        if time.monotonic() - record.info.get(_ANSWERED_AT, 0.0) > _TRUSTED_SECONDS and not self._answers(
            dbapi_connection
        ):
            raise exc.DisconnectionError

    def _usable(self, driver: "asyncpg.Connection[Any]") -> bool:
        return not driver.is_closed() and not self.connector.expired(driver)

    def _answers(self, dbapi_connection: Any) -> bool:
        try:
            return bool(self._engine.sync_engine.dialect.do_ping(dbapi_connection))
        except Exception:  # whatever is wrong with it, another one is opened, and that says why it can't be
            return False

    async def _connected(self) -> AsyncConnection:
        if self._checked_out() >= self.maximum_connections and (spare := self._spare.take()) is not None:
            return spare.pooled
        # In a task of its own: a cancelled caller must not tear a half-made connection out of the pool's books.
        starting = asyncio.ensure_future(self._engine.connect().start())
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._not_wanted)
            raise

    def _not_wanted(self, started: "asyncio.Future[AsyncConnection]") -> None:
        if not started.cancelled() and started.exception() is None:
            self._give_back(started.result(), True)

    def _give_back(self, connection: AsyncConnection, whole: bool) -> None:
        self._remember(asyncio.ensure_future(connection.close() if whole else _rolled_back(connection)))

    def _remember(self, closing: "asyncio.Task[None]") -> None:
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)

    async def _finish(self, connection: AsyncConnection, *, failed: bool) -> None:
        closing = asyncio.ensure_future(_rolled_back(connection) if failed else connection.close())
        self._remember(closing)
        # A second cancellation leaves the clean-up running; close() waits for it.
        await asyncio.shield(closing)

    def _begin(self, timeout_seconds: float | None, isolation: str, read_only: bool) -> str:
        left = remaining_seconds()
        bounds = [seconds for seconds in (timeout_seconds, left) if seconds is not None]
        milliseconds = 0 if not bounds else int(min(bounds) * 1_000)
        if bounds and milliseconds <= 0:
            raise DeadlineExceeded("the call's deadline passed before the database was asked")
        call = re.sub(r"[^A-Za-z0-9._-]", "", correlation_id())[:40]
        text = f"BEGIN ISOLATION LEVEL {isolation} {'READ ONLY' if read_only else 'READ WRITE'}"
        if bounds:
            text += f"; SET LOCAL statement_timeout = {milliseconds}"
        if call:
            text = f"/* correlation_id={call} */ {text}; SET LOCAL application_name = '{self.application_name} {call}'"
        return text


async def set_exact_instants(connection: "asyncpg.Connection[Any]") -> None:
    """Make ``timestamptz`` int microseconds since the Unix epoch on this connection, in COPY too."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda instant_us: (instant_us - _POSTGRES_EPOCH_US,),
        decoder=lambda parts: parts[0] + _POSTGRES_EPOCH_US,
        format="tuple",
    )


def _exact_instants(dbapi_connection: Any, record: Any) -> None:
    dbapi_connection.run_async(set_exact_instants)
    _trusted_from_now(dbapi_connection, record)


def _trusted_from_now(_dbapi_connection: Any, record: Any) -> None:
    record.info[_ANSWERED_AT] = time.monotonic()


async def _rolled_back(connection: AsyncConnection) -> None:
    """Bring a connection of a failed transaction back to idle, or out of the pool."""
    try:
        raw = (await connection.get_raw_connection()).driver_connection
        assert isinstance(raw, asyncpg.Connection)
        # After a cancelled query the driver first waits here until the server has stopped it. A request to stop that
        # reaches the server before the query does is lost; then the connection is cut, which the server notices.
        await raw.execute("ROLLBACK", timeout=1)
    except Exception:
        await connection.invalidate()
    finally:
        await connection.close()


class _translated:
    """Turn the database's errors into the domain's; their text stays behind as the cause, for the log alone."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, OddstreamError | asyncio.CancelledError):
            return
        found = translate(error)
        if found is not None:
            raise found from error


def translate(error: BaseException) -> OddstreamError | None:
    """The domain's error for one of the driver's, of the pool's or of the socket's; None where it is our own fault."""
    if isinstance(error, exc.TimeoutError):
        return Unavailable("all database connections are in use; try again")
    if isinstance(error, exc.DBAPIError):
        if error.connection_invalidated:
            return _away()
        cause = error.orig.__cause__ if error.orig is not None else None
        return translate(cause) if cause is not None else None
    if isinstance(error, asyncpg.InternalClientError):
        # The server ended the session between two statements, and the driver's state machine was asked in the middle.
        return _away()
    if isinstance(error, asyncpg.InterfaceError):
        # The same class tells that an argument has the wrong type, which is a fault of ours.
        return _away() if "closed" in str(error) else None
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        if code in _AWAY:
            return _away()
        if code in _CONFLICT:
            return Aborted("another transaction was in the way; try again", reason="CONCURRENT_CHANGE")
        if code in _FULL:
            return Unavailable("the database is out of a resource; reads may still work", retry_after_us=5_000_000)
        if code in _LOGIN_REFUSED:
            return Unavailable("the database does not take this server's login; its operator has to look")
        if code == "57014":
            return DeadlineExceeded("the database did not answer in time; narrow the request or give it longer")
        return None
    # Refused, reset, timed out, no such host or socket.
    return _away() if isinstance(error, OSError) else None


def _away() -> DatabaseAway:
    return DatabaseAway("the database is away; try again")
