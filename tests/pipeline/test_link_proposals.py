"""Proposals of links: pairs that are the same contract are found, look-alikes are not, and nothing trades unreviewed."""
# ruff: noqa: E501  # the table has a pair a line

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from oddstream_server.application.ports import MarketLinkFilter
from oddstream_server.domain.market import Event, LinkRelation, LinkState, Market, MarketState, Outcome, Venue
from oddstream_server.pipeline.linking.facts import Facts, facts_of
from oddstream_server.pipeline.linking.matching import MINIMUM_SCORE, Match, Rarity, compare, find_matches
from oddstream_server.pipeline.linking.proposer import LinkProposer
from tests.pipeline.conftest import Stores
from tests.strategies.worlds import START_US, a_market

EQUIVALENT, INVERSE = LinkRelation.EQUIVALENT, LinkRelation.INVERSE

# (Kalshi's title, its first outcome, its close) and the same of Polymarket; then the relation, None where they differ.
SAME = [
    ("Bitcoin above $65,000 on July 4, 2026?", "Yes", "2026-07-04",
     "Will the price of BTC be above $65k on July 4?", "Yes", "2026-07-04", EQUIVALENT),
    ("Bitcoin above $65,000 on July 4, 2026?", "Yes", "2026-07-04",
     "Will the price of BTC be below $65k on July 4?", "Yes", "2026-07-04", INVERSE),
    ("Los Angeles Lakers at Boston Celtics winner?", "Boston Celtics", "2026-12-25",
     "Lakers vs. Celtics (Los Angeles at Boston)", "Celtics", "2026-12-25", EQUIVALENT),
    ("Los Angeles Lakers at Boston Celtics winner?", "Los Angeles Lakers", "2026-12-25",
     "Lakers vs. Celtics (Los Angeles at Boston)", "Celtics", "2026-12-25", INVERSE),
    ("Will the Fed cut rates by 25bps at the December 2026 meeting?", "Yes", "2026-12-10",
     "Fed decreases interest rates by 25 bps after December 2026 meeting? Rate cut", "Yes", "2026-12-10", None),
    ("CPI year-over-year in June 2026 above 3.2%", "Yes", "2026-07-14",
     "Will June 2026 CPI year-over-year be above 3.2%?", "Yes", "2026-07-14", EQUIVALENT),
    ("Highest temperature in New York City on July 9, 2026 above 95\u00b0", "Yes", "2026-07-10",
     "New York City highest temperature above 95\u00b0F on July 9?", "Yes", "2026-07-09", EQUIVALENT),
    ("Will Gretchen Whitmer win the 2028 Democratic presidential nomination?", "Yes", "2028-08-30",
     "Gretchen Whitmer wins the Democratic Presidential Nomination 2028", "Yes", "2028-08-15", EQUIVALENT),
    ("Will Brazil win the 2026 FIFA World Cup?", "Yes", "2026-07-19",
     "Brazil to win the FIFA World Cup 2026", "Yes", "2026-07-20", EQUIVALENT),
    ("Unemployment rate in August 2026 above 4.5%", "Yes", "2026-09-04",
     "Will the unemployment rate be above 4.5% in August 2026?", "Yes", "2026-09-04", EQUIVALENT),
    ("Ethereum at least $4,000 on September 1, 2026", "Yes", "2026-09-01",
     "Ethereum \u2265 $4000 on September 1, 2026?", "Yes", "2026-09-01", EQUIVALENT),
]  # fmt: skip
DIFFERENT = [
    # another strike
    ("Bitcoin above $65,000 on July 4, 2026?", "Yes", "2026-07-04", "Bitcoin above $66,000 on July 4, 2026?", "Yes", "2026-07-04"),
    ("Ethereum above $4,000 on September 1", "Yes", "2026-09-01", "Ethereum above $4,100 on September 1", "Yes", "2026-09-01"),
    ("CPI above 3.2% in June 2026", "Yes", "2026-07-14", "CPI above 3.3% in June 2026", "Yes", "2026-07-14"),
    ("Bitcoin above $100k on July 4, 2026", "Yes", "2026-07-04", "Bitcoin above $100M on July 4, 2026", "Yes", "2026-07-04"),
    ("Fed cuts rates by 25bps in December 2026", "Yes", "2026-12-10", "Fed cuts rates by 50bps in December 2026", "Yes", "2026-12-10"),
    # another date
    ("Bitcoin above $65,000 on July 4, 2026?", "Yes", "2026-07-04", "Bitcoin above $65,000 on July 5, 2026?", "Yes", "2026-07-05"),
    ("Fed cuts rates in October 2026", "Yes", "2026-10-29", "Fed cuts rates in December 2026", "Yes", "2026-12-10"),
    ("Brazil wins the World Cup 2026", "Yes", "2026-07-19", "Brazil wins the World Cup 2030", "Yes", "2030-07-19"),
    ("Bitcoin above $65,000", "Yes", "2026-07-04", "Bitcoin above $65,000", "Yes", "2026-07-24"),
    ("Lakers vs. Celtics", "Lakers", "2026-12-25", "Lakers vs. Celtics", "Lakers", "2027-01-25"),
    ("Government shutdown before October 1, 2026", "Yes", "2026-10-01", "Government shutdown after October 1, 2026", "Yes", "2026-10-01"),
    ("GDP growth in Q2 2026 above 2%", "Yes", "2026-07-30", "GDP growth in Q3 2026 above 2%", "Yes", "2026-10-30"),
    # another team, person or place
    ("Will the Lakers win the 2026 NBA Finals?", "Yes", "2026-06-20", "Will the Clippers win the 2026 NBA Finals?", "Yes", "2026-06-20"),
    ("Manchester United wins the 2026 FA Cup", "Yes", "2026-05-16", "Manchester City wins the 2026 FA Cup", "Yes", "2026-05-16"),
    ("Gretchen Whitmer wins the 2028 Democratic nomination", "Yes", "2028-08-30", "Gavin Newsom wins the 2028 Democratic nomination", "Yes", "2028-08-30"),
    ("Republicans win the Senate race in Texas 2026", "Yes", "2026-11-03", "Republicans win the Senate race in Ohio 2026", "Yes", "2026-11-03"),
    ("Highest temperature in New York on July 9 above 95", "Yes", "2026-07-09", "Highest temperature in Chicago on July 9 above 95", "Yes", "2026-07-09"),
    ("Lakers at Celtics: winner", "Celtics", "2026-12-25", "Lakers at Celtics: highest scorer", "LeBron James", "2026-12-25"),
    # another event of the same name
    ("Brazil wins the 2026 World Cup", "Yes", "2026-07-19", "Brazil reaches the 2026 World Cup semifinal", "Yes", "2026-07-19"),
    ("Democrats win the Senate in 2026", "Yes", "2026-11-03", "Democrats win the House in 2026", "Yes", "2026-11-03"),
    ("Ukraine and Russia sign a ceasefire in 2026", "Yes", "2026-12-31", "Ukraine and Russia sign a peace treaty in 2026", "Yes", "2026-12-31"),
    ("Will there be a government shutdown in 2026?", "Yes", "2026-12-31", "Will there not be a government shutdown in 2026?", "Yes", "2026-12-31"),
    ("Bitcoin above $65,000 on July 4, 2026", "Yes", "2026-07-04", "Ethereum above $65,000 on July 4, 2026", "Yes", "2026-07-04"),
    ("Highest temperature in New York on July 9 above 60", "Yes", "2026-07-09", "Lowest temperature in New York on July 9 above 60", "Yes", "2026-07-09"),
]  # fmt: skip


def a_side(venue: Venue, native: str, title: str, outcome: str, close: str, other: str = "No") -> Market:
    close_us = int(datetime.fromisoformat(close).replace(tzinfo=UTC).timestamp() * 1e6)
    return replace(
        a_market(0, event_id=None),
        market_id=f"{venue.value}:{native}",
        venue=venue,
        venue_market_id=native,
        title=title,
        outcomes=(Outcome(0, outcome, native), Outcome(1, other, native + "-no")),
        close_time_us=close_us,
        strike=None,
    )


def facts(venue: Venue, title: str, outcome: str, close: str, native: str = "A") -> Facts:
    other = {"Celtics": "Lakers", "Lakers": "Celtics"}.get(outcome, "No")
    return facts_of(a_side(venue, native, title, outcome, close, other), None)


def every_facts() -> tuple[list[Facts], list[Facts]]:
    own: list[Facts] = []
    others: list[Facts] = []
    for n, row in enumerate([*SAME, *DIFFERENT]):
        own.append(facts(Venue.KALSHI, str(row[0]), str(row[1]), str(row[2]), f"K{n}"))
        others.append(facts(Venue.POLYMARKET, str(row[3]), str(row[4]), str(row[5]), f"P{n}"))
    return own, others


OWN, OTHERS = every_facts()
RARITY = Rarity([*OWN, *OTHERS])


def judged(row: int) -> Match | None:
    match = compare(OWN[row], OTHERS[row], RARITY)
    return match if match is not None and match.score >= MINIMUM_SCORE else None


@pytest.mark.parametrize("row", range(len(SAME), len(SAME) + len(DIFFERENT)))
def test_a_look_alike_is_not_proposed(row: int) -> None:
    match = judged(row)
    assert match is None, f"{OWN[row].market.title!r} is not {OTHERS[row].market.title!r}: {match and match.reasons}"


def test_pairs_of_the_table_are_found_with_their_relation() -> None:
    wanted = {row: pair[6] for row, pair in enumerate(SAME) if pair[6] is not None}
    found = {row: match.relation for row in wanted if (match := judged(row)) is not None}
    wrong = {row for row, relation in found.items() if relation is not wanted[row]}
    assert not wrong
    recall = len(found) / len(wanted)
    assert recall >= 0.9, [SAME[row][0] for row in wanted.keys() - found.keys()]


def test_precision_over_all_pairs_of_the_table_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Every market of one venue against every one of the other: what is proposed must be a pair of the table."""
    matches = find_matches(OWN, OTHERS)
    same = {
        (OWN[a].market.title, OTHERS[b].market.title)
        for a in range(len(SAME))
        for b in range(len(SAME))
        if SAME[a][6] is not None and (SAME[a][0], SAME[b][3]) in {(r[0], r[3]) for r in SAME}
    }
    right = [m for m in matches if (m.own.market.title, m.other.market.title) in same or _twin(m)]
    precision = len(right) / len(matches)
    print(f"proposed {len(matches)}, right {len(right)}, precision {precision:.2f}")
    assert len(matches) >= 9
    assert precision >= 0.9, [(m.own.market.title, m.other.market.title) for m in matches if m not in right]


def _twin(match: Match) -> bool:
    """Rows of the table repeat a contract: the same title and close on both sides is the same one."""
    own, other = match.own, match.other
    return (own.words, own.numbers, own.close) == (other.words, other.numbers, other.close)


def test_a_proposal_says_why() -> None:
    match = judged(0)
    assert match is not None
    reasons = dict(match.reasons)
    assert reasons["numbers"] == "65000"
    assert reasons["dates"] == "07-04 2026"
    assert "bitcoin" in reasons["words shared"]
    assert reasons["score"].endswith("of 100")


async def test_a_pass_proposes_once_and_never_confirms(stores: Stores) -> None:
    own = a_side(Venue.KALSHI, "BTC", *SAME[0][:3])
    other = a_side(Venue.POLYMARKET, "0xabc", *SAME[0][3:6])
    simulated = a_side(Venue.SIMULATED, "S1", *SAME[0][:3])
    closed = replace(a_side(Venue.POLYMARKET, "0xdef", *SAME[0][3:6]), state=MarketState.CLOSED)
    event = Event("kalshi:E", Venue.KALSHI, "E", "Bitcoin price")
    own = replace(own, event_id=event.event_id)
    await stores.catalog.upsert([event], [own, other, simulated, closed], START_US)
    venues = [Venue.POLYMARKET, Venue.KALSHI, Venue.SIMULATED]
    proposer = LinkProposer(stores.catalog, venues, lambda: START_US)
    assert await proposer.propose() == 1
    (link,) = (await stores.catalog.list_links(MarketLinkFilter(), None, 10)).items
    assert (link.market_id, link.other_market_id) == (own.market_id, other.market_id)
    assert (link.state, link.relation, link.reviewer) == (LinkState.PROPOSED, EQUIVALENT, "")
    assert (link.rules_digest, link.other_rules_digest) == (own.rules_digest, other.rules_digest)
    assert not link.tradable
    await stores.catalog.save_link(replace(link, state=LinkState.REJECTED, review_time_us=START_US, revision=2))
    assert await proposer.propose() == 0
    (kept,) = (await stores.catalog.list_links(MarketLinkFilter(), None, 10)).items
    assert kept.state is LinkState.REJECTED
