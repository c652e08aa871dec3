"""What a market's words say: numbers, dates, directions, and the words that are left."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from oddstream_server.domain.market import Event, Market

_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        ("january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug",
         "september sept sep", "october oct", "november nov", "december dec"), 1
    )
    for name in names.split()
}  # fmt: skip
_MONTH: Final = "|".join(sorted(_MONTHS, key=len, reverse=True))
_ISO_DATE: Final = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_MONTH_DAY: Final = re.compile(rf"\b({_MONTH})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?(?!\d)(?:,?\s+(\d{{4}}))?\b")
_DAY_MONTH: Final = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s+({_MONTH})\b\.?(?:,?\s+(\d{{4}}))?")
_MONTH_ALONE: Final = re.compile(rf"\b({_MONTH})\b(?:\s+(\d{{4}}))?")
_QUARTER: Final = re.compile(r"\bq([1-4])\b(?:\s+(\d{4}))?")
_YEAR: Final = re.compile(r"\b(20\d{2})\b")
_NUMBER: Final = re.compile(
    r"(?<![\w.])[$]?(\d+(?:,\d{3})*(?:\.\d+)?)(?:\s*(k|m|b|bn|million|billion|trillion|thousand)\b)?"
    r"(?:\s*(%|percent\b|bps\b))?(?!\w)"
)
_SCALES: Final = {
    "k": 10**3, "thousand": 10**3, "m": 10**6, "million": 10**6, "b": 10**9, "bn": 10**9, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
_SYNONYMS: Final[Mapping[str, str]] = {
    "btc": "bitcoin", "eth": "ethereum", "sol": "solana", "xrp": "ripple", "doge": "dogecoin", "usa": "us",
    "america": "us", "gop": "republican", "republicans": "republican", "democrats": "democrat",
    "democratic": "democrat", "dems": "democrat", "fed": "fomc", "federal": "fomc", "presidency": "president",
    "presidential": "president", "rates": "rate", "cuts": "cut", "hikes": "hike", "wins": "win", "winner": "win",
    "beat": "win", "beats": "win", "defeat": "win", "defeats": "win", "games": "game", "points": "point",
    "championship": "champion", "championships": "champion", "nominee": "nomination", "highs": "high",
    "temp": "temperature", "unemployed": "unemployment",
}  # fmt: skip
_UP: Final = frozenset(
    {"above", "over", "exceed", "exceeds", "greater", "higher", "more", "reach", "reaches", "atleast"}
)
_DOWN: Final = frozenset({"below", "under", "less", "lower", "fewer", "beneath", "dip", "drop", "drops", "atmost"})
_NOT: Final = frozenset({"not", "no", "without", "fail", "fails", "wont"})
_EMPTY: Final = frozenset(
    """
    a an and any are as at be been being by close closes closing contract do does during end ends ending et edt est
    utc event for from get has have he her his if in into is it its market markets must next of on or out per pm am
    price prices resolve resolves s she than that the their there this time to value vs v was what when where which
    who whom will with would yes year become becomes between before after day week month on-chain usd dollars dollar
    level professional match matchup reserve bank committee
    """.split()  # noqa: SIM905  # a list of a hundred quoted words is harder to read
)
_TOKEN: Final = re.compile(r"[a-z][a-z'&.-]*")
_ORDER_WORDS: Final = frozenset({"before", "after"})


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one market, from its own and its event's titles and its first outcome's label."""

    market: Market
    text: str
    """The words in their order, folded."""
    words: frozenset[str]
    numbers: frozenset[str]
    """Strikes and thresholds as plain decimals, with ``%`` where they are percentages."""
    days: frozenset[tuple[int, int]]
    """(month, day) that the text names."""
    months: frozenset[int]
    """Months named without a day, quarters by their last month."""
    years: frozenset[int]
    direction: int
    """1 where it pays above something, -1 below, 0 where neither or both are said."""
    negated: bool
    order: str
    """``before`` or ``after`` where the text says one of them."""
    close: date | None
    subject: str
    """The first outcome's label where it is more than yes or no, folded."""
    other_subject: str
    """The second outcome's."""


def facts_of(market: Market, event: Event | None) -> Facts:
    """Read a market's words. Nothing is looked up: the same texts give the same facts."""
    subject, other = (_folded(outcome.label) for outcome in market.outcomes[:2])
    subject = "" if subject in ("yes", "up", "no", "down") else subject
    other = "" if other in ("yes", "up", "no", "down") or other == subject else other
    parts = [market.title]
    if event is not None and event.title not in market.title:
        parts.append(event.title)
    if subject and subject not in _folded(market.title):
        parts.append(subject)
    text = _folded(" ; ".join(parts))
    rest, days, months, years = _dates(text)
    numbers, rest = _numbers(rest)
    tokens = [_SYNONYMS.get(t, t) for t in (token.strip("'.-") for token in _TOKEN.findall(rest))]
    seen = set(tokens)
    direction = _direction(market, seen)
    return Facts(
        market=market,
        text=" ".join(t for t in tokens if t not in _EMPTY),
        words=frozenset(t for t in seen if len(t) > 1) - _EMPTY - _UP - _DOWN - _NOT,
        numbers=frozenset(numbers | _strikes(market, numbers)),
        days=days,
        months=months,
        years=years,
        direction=direction,
        negated=bool(seen & _NOT),
        order=next(iter(seen & _ORDER_WORDS), "") if len(seen & _ORDER_WORDS) == 1 else "",
        close=None if market.close_time_us is None else datetime.fromtimestamp(market.close_time_us / 1e6, UTC).date(),
        subject=subject,
        other_subject=other,
    )


def _folded(text: str) -> str:
    """Lower case without accents; ``at least`` and ``at most`` as one word, signs as words."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).lower()
    plain = plain.replace("\u2019", "'").replace("won't", "wont").replace("u.s.", "us")
    for sign, word in ((">=", " atleast "), ("\u2265", " atleast "), ("<=", " atmost "), ("\u2264", " atmost "),
                       (">", " above "), ("<", " below "), ("at least", " atleast "), ("or more", " atleast "),
                       ("or above", " atleast "), ("or higher", " atleast "), ("at most", " atmost "),
                       ("or less", " atmost "), ("or lower", " atmost "), ("or below", " atmost ")):  # fmt: skip
        plain = plain.replace(sign, word)
    return plain


def _dates(text: str) -> tuple[str, frozenset[tuple[int, int]], frozenset[int], frozenset[int]]:
    """The text without its dates, and what they were."""
    days: set[tuple[int, int]] = set()
    months: set[int] = set()
    years: set[int] = set()

    def keep(month: int, day: int | None, year: str | None) -> str:
        if day is None:
            months.add(month)
        else:
            days.add((month, day))
        if year:
            years.add(int(year))
        return " "

    text = _ISO_DATE.sub(lambda m: keep(int(m[2]), int(m[3]), m[1]), text)
    text = _MONTH_DAY.sub(lambda m: keep(_MONTHS[m[1]], int(m[2]), m[3]), text)
    text = _DAY_MONTH.sub(lambda m: keep(_MONTHS[m[2]], int(m[1]), m[3]), text)
    text = _QUARTER.sub(lambda m: keep(3 * int(m[1]), None, m[2]), text)
    # "may" is a verb as often as a month, and "march" a walk: alone they count with a year only
    text = _MONTH_ALONE.sub(
        lambda m: m[0] if m[1] in ("may", "mar", "march") and not m[2] else keep(_MONTHS[m[1]], None, m[2]), text
    )
    years.update(int(year) for year in _YEAR.findall(text))
    text = _YEAR.sub(" ", text)
    return text, frozenset(days), frozenset(months), frozenset(years)


def _numbers(text: str) -> tuple[set[str], str]:
    found: set[str] = set()

    def keep(match: "re.Match[str]") -> str:
        value = float(match[1].replace(",", "")) * _SCALES.get(match[2] or "", 1)
        found.add(f"{value:.10g}" + ("%" if match[3] in ("%", "percent") else "bps" if match[3] else ""))
        return " "

    return found, _NUMBER.sub(keep, text)


def _strikes(market: Market, numbers: set[str]) -> set[str]:
    """The strike's own bounds, where the text has no number: a venue may keep them in fields alone."""
    strike = market.strike
    if strike is None or numbers:
        return set()
    return {f"{bound / 1e6:.10g}" for bound in (strike.floor_micros, strike.cap_micros) if bound is not None}


def _direction(market: Market, seen: set[str]) -> int:
    kind = "" if market.strike is None else market.strike.kind
    if kind.startswith(("greater", "less")):
        return 1 if kind.startswith("greater") else -1
    up, down = bool(seen & _UP), bool(seen & _DOWN)
    return 0 if up == down else 1 if up else -1
