"""A key whose scopes name venues sees the data of those alone.

What a call names (a market, an event, a venue) is checked before any use case runs; what it leaves open is narrowed
here.
"""

from collections.abc import Iterable

from oddstream_server.application.calls.request import current_request
from oddstream_server.domain.errors import PermissionDenied
from oddstream_server.domain.market import Venue


def scoped_venues() -> tuple[Venue, ...]:
    """The venues that the caller may see; empty where the caller's scopes don't narrow them, and outside of calls."""
    request = current_request.get()
    if request is None or request.principal is None:
        return ()
    return request.principal.scopes.venues


def narrowed(venues: tuple[Venue, ...]) -> tuple[Venue, ...]:
    """What a filter for venues comes to for the caller: an empty one means all that may be seen.

    :raises PermissionDenied: SCOPE_DENIED: it names another one.
    """
    require_venues(venue.value for venue in venues)
    return venues or scoped_venues()


def require_venues(venues: Iterable[str]) -> None:
    """:param venues: as in ids.
    :raises PermissionDenied: SCOPE_DENIED: the caller may not see one of them.
    """
    allowed = scoped_venues()
    if not allowed:
        return
    for venue in venues:
        if venue not in allowed:
            raise PermissionDenied(
                f"the key's scopes leave out {venue}", reason="SCOPE_DENIED", metadata={"venue": venue}
            )


def require_markets(market_ids: Iterable[str]) -> None:
    """The same by the venues that ids of markets or events begin with."""
    require_venues(market_id.partition(":")[0] for market_id in market_ids)
