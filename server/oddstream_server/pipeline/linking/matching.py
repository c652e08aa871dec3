"""Which of two venues' markets may be the same question: candidates by rare words, then hard facts, then a score.

A difference in a number, a date, a direction or a name ends the comparison: titles that look alike mostly are not the
same contract (of 30 such pairs read by hand, 3 were). The score says how much of the words is shared; it proposes to a
reviewer and never trades.
"""

import base64
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rapidfuzz import fuzz

from oddstream_server.domain.market import LinkRelation, LinkState, MarketLink
from oddstream_server.pipeline.linking.facts import Facts

MINIMUM_SCORE: Final = 75.0
"""Of 100; below it nothing is proposed."""
CANDIDATES_A_MARKET: Final = 40
CLOSE_DAYS: Final = 3
"""How far the closes of a pair may be apart where its texts name no day."""
_RULES_CHARACTERS: Final = 2_000
_SAME_WORD: Final = 86.0
_OUTCOMES: Final[Mapping[LinkRelation, tuple[tuple[int, int], ...]]] = {
    LinkRelation.EQUIVALENT: ((0, 0), (1, 1)),
    LinkRelation.INVERSE: ((0, 1), (1, 0)),
}


@dataclass(frozen=True, slots=True)
class Match:
    """Two markets that may be linked, and why."""

    own: Facts
    other: Facts
    relation: LinkRelation
    score: float
    """0 to 100."""
    reasons: tuple[tuple[str, str], ...]


class Rarity:
    """How much a word tells: the fewer markets say it, the more."""

    def __init__(self, facts: Iterable[Facts]) -> None:
        counted: Counter[str] = Counter()
        self._count = 0
        for some in facts:
            counted.update(some.words)
            self._count += 1
        self._counted = counted

    def of(self, word: str) -> float:
        return math.log(1 + (self._count + 1) / (1 + self._counted[word]))

    def sum(self, words: Iterable[str]) -> float:
        return sum(self.of(word) for word in words)


def find_matches(own: Sequence[Facts], others: Sequence[Facts], minimum: float = MINIMUM_SCORE) -> list[Match]:
    """The pairs of two venues that score enough, best first; each market is in its best pairs alone.

    Work is bounded: each market is compared with the few that share its rarest words.
    """
    rarity = Rarity([*own, *others])
    by_word: dict[str, list[int]] = defaultdict(list)
    for place, facts in enumerate(others):
        for word in facts.words:
            by_word[word].append(place)
    found: list[Match] = []
    for facts in own:
        shared: Counter[int] = Counter()
        for word in facts.words:
            if len(by_word[word]) <= max(50, len(others) // 4):
                for place in by_word[word]:
                    shared[place] += 1 + round(10 * rarity.of(word))
        for place, _ in shared.most_common(CANDIDATES_A_MARKET):
            match = compare(facts, others[place], rarity)
            if match is not None and match.score >= minimum:
                found.append(match)
    best: dict[str, float] = defaultdict(float)
    for match in found:
        for side in (match.own, match.other):
            best[side.market.market_id] = max(best[side.market.market_id], match.score)
    kept = [m for m in found if m.score >= max(best[m.own.market.market_id], best[m.other.market.market_id]) - 1]
    return sorted(kept, key=lambda m: (-m.score, m.own.market.market_id, m.other.market.market_id))


def compare(own: Facts, other: Facts, rarity: Rarity) -> Match | None:
    """None where a hard fact tells them apart."""
    if own.numbers != other.numbers or not _same_dates(own, other):
        return None
    if own.order != other.order or own.negated != other.negated:
        return None
    inverse = own.direction * other.direction < 0
    if not inverse and own.numbers and own.direction != other.direction:
        return None
    turned = _turned(own, other)
    if turned is None:
        return None
    inverse ^= turned
    pairs = _paired(own.words, other.words)
    alone = [own.words - {a for a, _ in pairs}, other.words - {b for _, b in pairs}]
    weights = [rarity.sum(own.words), rarity.sum(other.words)]
    if not all(weights):
        return None
    covered = [1 - rarity.sum(some) / weight for some, weight in zip(alone, weights, strict=True)]
    # a word of one side alone may be a longer title; words of both sides alone are mostly two names
    words = 85 * min(covered) if all(alone) else 100 * (0.4 * min(covered) + 0.6 * max(covered))
    score = 0.85 * words + 0.15 * fuzz.token_sort_ratio(own.text, other.text)
    relation = LinkRelation.INVERSE if inverse else LinkRelation.EQUIVALENT
    rules = fuzz.token_sort_ratio(
        own.market.rules_text[:_RULES_CHARACTERS], other.market.rules_text[:_RULES_CHARACTERS]
    )
    reasons = (
        ("score", f"{score:.1f} of 100"),
        ("words shared", " ".join(sorted(a for a, _ in pairs))),
        ("words of one side alone", " ".join(sorted(alone[0] | alone[1])) or "none"),
        ("numbers", " ".join(sorted(own.numbers)) or "none on either side"),
        ("dates", _told_dates(own) if own.days or own.months or own.years else "none named; closes are near"),
        ("rules", f"texts are {rules:.0f} of 100 alike"),
    )
    return Match(own, other, relation, score, reasons)


def link_of_match(match: Match, now_us: int) -> MarketLink:
    """A proposal; the same pair has the same id for ever."""
    own, other = match.own.market, match.other.market
    digest = hashlib.sha256(f"{own.market_id}\0{other.market_id}".encode()).digest()
    return MarketLink(
        link_id="lnk_" + base64.b32encode(digest).decode().lower()[:26],
        market_id=own.market_id,
        other_market_id=other.market_id,
        relation=match.relation,
        outcome_map=_OUTCOMES[match.relation],
        rules_digest=own.rules_digest,
        other_rules_digest=other.rules_digest,
        state=LinkState.PROPOSED,
        create_time_us=now_us,
        evidence=match.reasons,
    )


def _same_dates(own: Facts, other: Facts) -> bool:
    if own.years and other.years and own.years != other.years:
        return False
    if own.days and other.days:
        return own.days == other.days and (own.months == other.months or not (own.months and other.months))
    if own.months and other.months and own.months != other.months:
        return False
    for named, closing in ((own, other), (other, own)):
        if (named.days or named.months) and not (closing.days or closing.months):
            return _named_near(named, closing)
    if own.close is None or other.close is None:
        return bool(own.years and other.years)
    return abs((own.close - other.close).days) <= (CLOSE_DAYS if not (own.years and other.years) else 45)


def _named_near(named: Facts, closing: Facts) -> bool:
    """The day or month that one text names is that of the other's close, which may come in the night after it."""
    close = closing.close
    if close is None or (named.years and close.year not in named.years and close.month != 1):
        return False
    near = [close.toordinal() + shift for shift in (-1, 0)]
    days = {(d.month, d.day) for d in (type(close).fromordinal(n) for n in near)}
    return bool(named.days & days) if named.days else bool(named.months & {month for month, _ in days})


def _turned(own: Facts, other: Facts) -> bool | None:
    """True where the first outcome of one is the second of the other; None where they speak of different things."""
    if not own.subject or not other.subject:
        return False
    if _alike(own.subject, other.subject):
        return False
    if (own.other_subject and _alike(own.other_subject, other.subject)) or (
        other.other_subject and _alike(own.subject, other.other_subject)
    ):
        return True
    return None


def _alike(a: str, b: str) -> bool:
    return fuzz.token_set_ratio(a, b) >= _SAME_WORD


def _paired(own: frozenset[str], other: frozenset[str]) -> list[tuple[str, str]]:
    """Words of both sides that are the same, or a spelling of it."""
    pairs = [(word, word) for word in own & other]
    left = sorted(other - own)
    for word in sorted(own - other):
        best = max(left, key=lambda candidate: fuzz.ratio(word, candidate), default=None)
        if best is not None and min(len(word), len(best)) > 3 and fuzz.ratio(word, best) >= _SAME_WORD:
            pairs.append((word, best))
            left.remove(best)
    return pairs


def _told_dates(facts: Facts) -> str:
    days = [f"{month:02d}-{day:02d}" for month, day in sorted(facts.days)]
    return " ".join([*days, *(f"month {m}" for m in sorted(facts.months)), *map(str, sorted(facts.years))])
