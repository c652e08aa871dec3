"""The venue's live-data socket without I/O: Chainlink's prices of coins, and their averages, once a second.

A subscription is of a whole topic: with a filter of one symbol the venue sends the last minutes and then nothing. Those
last minutes carry neither a topic of their own nor all digits, so they are passed over where they come unasked.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import orjson

from oddstream_server.application.ports import CatalogPage, VenueItem
from oddstream_server.domain.market import Market, Venue
from oddstream_server.domain.quote import FeedState, FeedStatus
from oddstream_server.venues.decimals import rounded_micros
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.polymarket.strikes import PriceSeries, price_series
from oddstream_server.venues.rows import (
    Quarantine,
    QuarantineReason,
    RowError,
    as_object,
    exact_json,
    optional_text,
    text,
    whole_number,
)
from oddstream_server.venues.socket import SocketConfig
from oddstream_server.venues.times import milliseconds_us
from oddstream_server.venues.underlying_prices import as_quote

TOPICS: Final = {
    "crypto_prices_chainlink": 0,
    "crypto_prices_twap_thirty": 30_000_000,
    "crypto_prices_twap_sixty": 60_000_000,
}
"""The length of the average that a topic's prices are; 0 for the price itself."""
_TOPIC_OF: Final = {averaging_us: topic for topic, averaging_us in TOPICS.items()}
_LAST_MINUTES: Final = "crypto_prices"
_SYMBOL: Final = re.compile(r"([a-z0-9]+)/usd")
_ACCURATE: Final = re.compile(r"[0-9]{1,40}")
_ACCURATE_PER_MICRO: Final = 10**12
_GRID_US: Final = 300_000_000
"""Windows begin on whole five minutes; what the prices were then is remembered for markets followed later."""
_OPENINGS_REMEMBERED: Final = 8_192
_AHEAD_US: Final = 10_000_000
_MISSED_AFTER_US: Final = 15_000_000

TakeStrike = Callable[[str, int], Market | None]


class PriceMonitor(FeedMonitor):
    """The state of the prices' stream: told in words beside the state of the venue's feed, of which it is no part."""

    def __init__(self, of_venue: FeedMonitor) -> None:
        super().__init__(Venue.POLYMARKET, of_venue.epoch)
        self._of_venue = of_venue

    def change(
        self, stream: str, state: FeedState, now_us: int, detail: str = "", market_ids: Collection[str] = ()
    ) -> list[FeedStatus]:
        before = self.state(stream)
        super().change(stream, state, now_us, detail, market_ids)
        if before is state or (before is None and state is FeedState.LIVE):
            return []
        return self.remark(f"{stream} {state.value}{': ' if detail else ''}{detail}", now_us)

    def drop(self, stream: str, now_us: int) -> list[FeedStatus]:
        super().drop(stream, now_us)
        return []

    def remark(self, detail: str, now_us: int) -> list[FeedStatus]:
        return self._of_venue.remark(detail, now_us)


class PriceFeed:
    """The protocol on one connection, and the strikes that its prices make known.

    :param take_strike: told a market's id and its floor in micros once it is known; answers the market with it, or None
        where it isn't followed any more.
    """

    stream = "polymarket prices"

    def __init__(self, monitor: PriceMonitor, config: SocketConfig, take_strike: TakeStrike) -> None:
        self._monitor = monitor
        self._config = config
        self._take_strike = take_strike
        self._wanted: set[PriceSeries] = set()
        self._heard_us: dict[str, int | None] = {}
        """By subscribed topic, when it brought data last or was first waited for; None before."""
        self._newest_us: dict[PriceSeries, int] = {}
        self._openings: OrderedDict[tuple[PriceSeries, int], int] = OrderedDict()
        self._awaiting: dict[tuple[PriceSeries, int], list[str]] = {}
        """Markets whose strike isn't known, by the price that it is."""
        self._missed: set[tuple[PriceSeries, int]] = set()
        self._session = ""
        self._open = False
        self._queue: list[str] = []

    # --- what is followed -----------------------------------------------------------------------------------------

    def follow(self, markets: Sequence[Market]) -> None:
        """Replace the set of markets; commands for the difference are made at once."""
        self._wanted, self._awaiting = set(), {}
        for market in markets:
            series = None if market.strike is None else price_series(market.strike)
            if series is None or market.strike is None or market.strike.opening_time_us is None:
                continue
            self._wanted.update(series)
            if market.strike.floor_micros is None:
                self._awaiting.setdefault((series[1], market.strike.opening_time_us), []).append(market.market_id)
        self._missed &= self._awaiting.keys()
        if self._open:
            topics = self._topics()
            self._operate("unsubscribe", [topic for topic in self._heard_us if topic not in topics])
            self._operate("subscribe", [topic for topic in topics if topic not in self._heard_us])

    def _topics(self) -> list[str]:
        return sorted({_TOPIC_OF[series.averaging_us] for series in self._wanted})

    # --- the connection -------------------------------------------------------------------------------------------

    def wanted(self) -> bool:
        return bool(self._wanted)

    def watched(self) -> bool:
        return bool(self._wanted)

    def opening_frames(self) -> int:
        return 0

    def is_data(self, frame: str | bytes) -> bool:
        return b'"payload"' in (frame.encode() if isinstance(frame, str) else frame)

    def opened(self, session: str, now_us: int) -> Sequence[VenueItem]:
        self._session = session
        self._open = True
        self._heard_us.clear()
        self._queue.clear()
        self._operate("subscribe", self._topics())
        return []

    def closed(self, now_us: int) -> Sequence[VenueItem]:
        self._open = False
        self._heard_us.clear()
        self._queue.clear()
        return []

    def take_commands(self) -> Sequence[str]:
        queued, self._queue = self._queue, []
        return queued

    def tick(self, now_us: int) -> Sequence[VenueItem]:
        items: list[VenueItem] = []
        for key in [key for key in self._awaiting if key in self._openings]:
            self._know(key, self._openings[key], items)
        for key in self._awaiting.keys() - self._missed:
            if self._open and now_us - key[1] > _MISSED_AFTER_US:
                self._missed.add(key)
                items += self._monitor.remark(_missed_words(key[0]), now_us)
        self._ask_again(now_us)
        return items

    def _ask_again(self, now_us: int) -> None:
        """Subscribe anew to a topic that went silent while another one comes."""
        patience_us = int(self._config.stale_after_s * 1e6)
        silent: list[str] = []
        for topic, heard_us in self._heard_us.items():
            if heard_us is None:
                self._heard_us[topic] = now_us
            elif now_us - heard_us > patience_us:
                silent.append(topic)
        if silent and len(silent) < len(self._heard_us):
            self._operate("unsubscribe", silent)
            self._operate("subscribe", silent)

    def _operate(self, action: str, topics: Sequence[str]) -> None:
        if not topics:
            return
        for topic in topics:
            if action == "subscribe":
                self._heard_us[topic] = None
            else:
                self._heard_us.pop(topic, None)
        subscriptions = [{"topic": topic, "type": "update"} for topic in topics]
        self._queue.append(orjson.dumps({"action": action, "subscriptions": subscriptions}).decode())

    # --- frames ---------------------------------------------------------------------------------------------------

    def receive(self, frame: str | bytes, now_us: int) -> Sequence[VenueItem]:
        """What a frame tells; what can't be read is quarantined."""
        items: list[VenueItem] = []
        if not frame.strip():
            return items  # the answer to a subscription
        quarantine = Quarantine(Venue.POLYMARKET, "websocket prices", now_us)
        with quarantine.guard(frame):
            content = exact_json(frame)
            for message in content if isinstance(content, list) else [content]:
                with quarantine.guard(message):
                    self._read(as_object(message, "message"), now_us, items)
        items += quarantine.rows
        return items

    def _read(self, message: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        topic = optional_text(message, "topic")
        if topic == _LAST_MINUTES:
            return
        if not topic and "payload" not in message:
            raise RowError(QuarantineReason.REFUSED, "the venue refused a command")
        if topic not in TOPICS:
            raise RowError(QuarantineReason.ENUM_UNKNOWN, "topic is none that was asked for")
        payload = as_object(message.get("payload"), "payload")
        if "data" in payload and "value" not in payload:
            return  # the last minutes
        series = _series(payload, TOPICS[topic])
        venue_time_us = milliseconds_us(payload.get("timestamp"), "timestamp")
        if venue_time_us > now_us + _AHEAD_US:
            raise RowError(QuarantineReason.TIME_INVALID, "timestamp is ahead of the clock")
        price_micros = _price(payload)
        if topic in self._heard_us:
            self._heard_us[topic] = now_us
        if series is None or venue_time_us <= self._newest_us.get(series, 0):
            return  # not in USD, or told before
        self._newest_us[series] = venue_time_us
        items += self._monitor.change(self.stream, FeedState.LIVE, now_us)
        if series in self._wanted:
            stream = f"{self._session}:{topic}"
            items.append(
                as_quote(
                    Venue.POLYMARKET,
                    series.series_id,
                    price_micros,
                    stream,
                    venue_time_us=venue_time_us,
                    receive_time_us=now_us,
                )
            )
        if venue_time_us % _GRID_US == 0:
            self._openings[series, venue_time_us] = price_micros
            if len(self._openings) > _OPENINGS_REMEMBERED:
                self._openings.popitem(last=False)
        self._know((series, venue_time_us), price_micros, items)

    def _know(self, key: tuple[PriceSeries, int], price_micros: int, items: list[VenueItem]) -> None:
        for market_id in self._awaiting.pop(key, ()):
            market = self._take_strike(market_id, price_micros)
            if market is not None:
                items.append(CatalogPage(Venue.POLYMARKET, (), (market,)))


def _series(payload: dict[str, Any], averaging_us: int) -> PriceSeries | None:
    if averaging_us and whole_number(payload, "window_s") * 1_000_000 != averaging_us:
        raise RowError(QuarantineReason.PRICES_INCONSISTENT, "window_s is not the topic's")
    symbol = _SYMBOL.fullmatch(text(payload, "symbol").lower())
    return None if symbol is None else PriceSeries(symbol[1], averaging_us)


def _price(payload: dict[str, Any]) -> int:
    """The value with all its digits, rounded to a micro; half of one goes up."""
    accurate = payload.get("full_accuracy_value")
    if accurate is None:
        price_micros = rounded_micros(payload.get("value"), "value")
    elif isinstance(accurate, str) and _ACCURATE.fullmatch(accurate):
        price_micros = (int(accurate) + _ACCURATE_PER_MICRO // 2) // _ACCURATE_PER_MICRO
    else:
        raise RowError(QuarantineReason.NUMBER_INVALID, "full_accuracy_value is no whole number above 0 as a text")
    if not 0 < price_micros < 2**62:
        raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, "value is no price")
    return price_micros


def _missed_words(series: PriceSeries) -> str:
    average = f", averaged over {series.averaging_us // 1_000_000} s," if series.averaging_us else ""
    return (
        f"polymarket prices: {series.coin}/usd{average} wasn't received at the start of a followed market's window; "
        "its strike is unknown until the venue tells it"
    )
