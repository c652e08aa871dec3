"""How a connection to PostgreSQL is made, whoever makes it: the pool, the listener, the migrations.

The login is asked for at each new connection, so that a changed password needs no restart. While a password is being
changed, the database and the store of secrets disagree for a moment: a refused login is asked for and tried again for
a few seconds.
"""

import asyncio
import random
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy.engine import URL, make_url

LOGIN_RETRY_BUDGET_SECONDS = 3.0
_EXPIRY_MARGIN_SECONDS = 5.0
_REFUSED = (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)


@dataclass(frozen=True, slots=True)
class DatabaseLogin:
    """None is what the URL says."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    expire_at: float | None = None
    """On the monotonic clock: from then on connections of this login are of no use."""


class DatabaseLogins(Protocol):
    async def current(self) -> DatabaseLogin:
        """The login for a connection that is about to be made."""
        ...

    def refused(self, login: DatabaseLogin) -> None:
        """The database didn't take it: don't answer it from memory again."""
        ...


class Connector:
    """:param url: ``postgresql://user:password@host:port/name``; a socket folder as ``?host=/folder``.
    :param tls: for a database over a network; None speaks plaintext.
    :param logins: where user and password come from; None takes the URL's.
    :param role: taken on in each session, so that tables have one owner whatever the login's name.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        logins: DatabaseLogins | None = None,
        role: str | None = None,
    ) -> None:
        self.url = sqlalchemy_url(url)
        self._dsn = driver_dsn(url)
        self._tls = tls
        self._logins = logins
        self._role = role
        self._expiries: WeakKeyDictionary[asyncpg.Connection[Any], float] = WeakKeyDictionary()

    async def connect(self, **arguments: Any) -> "asyncpg.Connection[Any]":
        """A connection to the URL's database; arguments as asyncpg's."""
        return await self(dsn=self._dsn, **arguments)

    async def __call__(self, *positional: Any, **arguments: Any) -> "asyncpg.Connection[Any]":
        """As SQLAlchemy calls it, with the parts of the URL as arguments."""
        if self._tls is not None:
            arguments["ssl"] = self._tls
        if self._role is not None:
            arguments["server_settings"] = {**arguments.get("server_settings", {}), "role": self._role}
        if self._logins is None:
            return await asyncpg.connect(*positional, **arguments)
        give_up = time.monotonic() + LOGIN_RETRY_BUDGET_SECONDS
        pause = 0.05
        while True:
            login = await self._logins.current()
            if login.user is not None:
                arguments["user"] = login.user
            if login.password is not None:
                arguments["password"] = login.password
            try:
                connection = await asyncpg.connect(*positional, **arguments)
            except _REFUSED:
                self._logins.refused(login)
                if time.monotonic() + pause > give_up:
                    raise
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  # jitter
                pause = min(pause * 2, 0.4)
            else:
                if login.expire_at is not None:
                    self._expiries[connection] = login.expire_at
                return connection

    def expired(self, connection: "asyncpg.Connection[Any]") -> bool:
        """True where the login that made the connection has run out, or is about to."""
        expire_at = self._expiries.get(connection)
        return expire_at is not None and time.monotonic() > expire_at - _EXPIRY_MARGIN_SECONDS


def sqlalchemy_url(url: str) -> URL:
    """A PostgreSQL URL of any spelling as SQLAlchemy with asyncpg wants it."""
    return make_url(url).set(drivername="postgresql+asyncpg")


def driver_dsn(url: str) -> str:
    """The same as asyncpg itself wants it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
