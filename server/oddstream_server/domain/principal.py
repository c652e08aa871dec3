"""Who calls: a principal, its role and the scopes that narrow it."""

from dataclasses import dataclass, field
from enum import IntEnum

from oddstream_server.domain.market import Venue


class Role(IntEnum):
    """Each role may do all that the ones below it may."""

    VIEWER = 1
    ANALYST = 2
    TRADER = 3
    ADMIN = 4


@dataclass(frozen=True, slots=True)
class Scopes:
    """What narrows a key; an empty tuple is no narrowing."""

    services: tuple[str, ...] = ()
    """Short names, e.g. ``SignalService``."""
    venues: tuple[Venue, ...] = ()
    networks: tuple[str, ...] = ()
    """CIDR blocks that the peer must be in."""
    calls_per_minute: int | None = None
    """Cost units; None is the server's default, here and below."""
    stream_limit: int | None = None
    """Streams open at once."""
    backtest_limit: int | None = None
    """Backtests and sweeps queued or running at once."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller of one rpc."""

    subject: str
    """Stable and opaque: the key's id or the token's subject. Safe to log."""
    role: Role
    scopes: Scopes = Scopes()
    key_id: str | None = None
    expire_time_us: int | None = None
    credential: str = field(default="", compare=False)
    """Which secret of the key proved it, as a short digest: a key in rotation has two."""
