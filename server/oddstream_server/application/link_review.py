"""Reviews of links: a person read both rules texts and decides."""

from dataclasses import dataclass, replace

from oddstream_server.application.access.venue_scope import require_markets
from oddstream_server.application.calls.etags import etag_of, require_etag
from oddstream_server.application.calls.mutations import Mutation
from oddstream_server.domain.errors import FailedPrecondition, NotFound
from oddstream_server.domain.market import LinkState, MarketLink


@dataclass(frozen=True, slots=True)
class LinkReview:
    link_id: str
    decision: LinkState
    """CONFIRMED or REJECTED."""
    rules_digest: str
    other_rules_digest: str
    """As the reviewer read them."""
    note: str = ""
    etag: str = ""


def link_etag(link: MarketLink) -> str:
    return etag_of(link.link_id, link.revision)


async def review_link(mutation: Mutation, review: LinkReview) -> MarketLink:
    """Confirm or reject a link as of the rules that the reviewer read.

    :raises NotFound: MARKET_LINK_NOT_FOUND.
    :raises PermissionDenied: SCOPE_DENIED: the reviewer may not see one of the markets' venues.
    :raises Aborted: ETAG_MISMATCH.
    :raises FailedPrecondition: MARKET_RULES_CHANGED: one of the texts is another by now.
    """
    found = await mutation.change.links.get(review.link_id)
    if found is None:
        raise NotFound("MarketLink", review.link_id)
    link, markets = found
    require_markets((link.market_id, link.other_market_id))
    require_etag(review.etag, link_etag(link))
    if [market.rules_digest for market in markets] != [review.rules_digest, review.other_rules_digest]:
        raise FailedPrecondition(
            "the rules of a market are not those that were reviewed; read both again and decide anew",
            subject=f"MarketLink/{link.link_id}",
            reason="MARKET_RULES_CHANGED",
        )
    reviewed = replace(
        link,
        state=review.decision,
        rules_digest=review.rules_digest,
        other_rules_digest=review.other_rules_digest,
        reviewer=mutation.principal.subject,
        note=review.note,
        review_time_us=mutation.now_us,
        revision=link.revision + 1,
    )
    await mutation.audit(f"MarketLink/{link.link_id}", _told(link), _told(reviewed))
    await mutation.change.links.put(reviewed)
    return reviewed


def _told(link: MarketLink) -> dict[str, str]:
    return {
        "state": link.state.value,
        "rules_digest": link.rules_digest,
        "other_rules_digest": link.other_rules_digest,
        "note": link.note,
    }
