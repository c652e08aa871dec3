"""A backtest on one page: HTML that needs nothing else, and the curve as a PNG."""

import html
import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise

from oddstream.cli.views.backtests import FIGURES, edge, figure, kinds, ladder_rows, usd, win_rate
from oddstream.v1 import backtest_pb2

_WIDTH, _HEIGHT, _EDGE = 900, 260, 60


def page(
    backtest: backtest_pb2.Backtest,
    points: Sequence[backtest_pb2.EquityPoint],
    profit_by_event: Sequence[tuple[str, int, int]],
) -> str:
    """:param profit_by_event: (event or market, profit in micros, trades), as they are to be shown."""
    result, metrics = backtest.result, backtest.result.metrics
    title = html.escape(backtest.display_name or backtest.backtest_id)
    figures = [
        ("profit after fees, USD", usd(metrics.profit_micros)),
        ("fees, USD", usd(metrics.fees_micros)),
        ("turnover, USD", usd(metrics.turnover_micros)),
        ("most locked, USD", usd(metrics.peak_locked_micros)),
        ("trades", f"{metrics.trade_count:,}"),
        ("voids", f"{metrics.void_count:,}"),
        *((label, figure(metrics, name, unit) or "not defined") for label, name, unit in FIGURES),
        ("win rate (95 %)", win_rate(metrics) or "not defined"),
        ("edge a contract (95 %)", edge(metrics) or "not defined"),
        ("coverage of open time", f"{result.coverage.ratio:.2%}"),
        ("gaps", f"{result.coverage.gap_count:,}"),
        ("trials on this data", f"{result.trial_count:,}"),
    ]
    bins = [b for b in metrics.calibration if b.count]
    parts = [
        f"<h1>{title}</h1><p>{html.escape(kinds(backtest.config))}; {backtest.config.range.start_time.ToJsonString()} "
        f"to {backtest.config.range.end_time.ToJsonString()}</p>",
        f"<p class=risk>{html.escape(result.disclaimer.text)} [{html.escape(result.disclaimer.code)}]</p>",
        "<h2>Equity, USD</h2>",
        _chart(points, lambda p: p.equity_micros, "#2563a8"),
        "<h2>Drawdown, USD</h2>",
        _chart(points, lambda p: p.drawdown_micros, "#a83225"),
        "<h2>What the same signals earn</h2>",
        _table(
            ("how orders fill", "profit, USD", "trades"), [(n, usd(p), f"{t:,}") for n, p, t in ladder_rows(result)]
        ),
        "<h2>Figures</h2>",
        _table(("", ""), figures),
        "<h2>Calibration</h2>",
        _table(
            ("forecast", "count", "mean forecast", "came true"),
            [
                (
                    f"{b.start_price_micros / 1e6:.2f} to {b.end_price_micros / 1e6:.2f}",
                    f"{b.count:,}",
                    f"{b.mean_forecast:.3f}",
                    f"{b.frequency:.3f}",
                )
                for b in bins
            ],
        )
        if bins
        else "<p>No market that was traded has settled.</p>",
        "<h2>Profit by event</h2>",
        _table(("event", "profit, USD", "trades"), [(e, usd(p), f"{t:,}") for e, p, t in profit_by_event]),
        "<h2>How the figures are defined</h2><ul>"
        + "".join(f"<li>{html.escape(note)}</li>" for note in result.conventions.notes)
        + "</ul>",
        f"<p class=hash>result {result.result_hash}, engine {result.engine_version}, input {result.input_digest}</p>",
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>"
        "body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#1b1f24}"
        "table{border-collapse:collapse}td,th{padding:.15em 1.2em .15em 0;text-align:left}"
        "td+td,th+th{text-align:right;font-variant-numeric:tabular-nums}h2{margin-top:1.6em;font-size:1.1em}"
        ".risk{border-left:3px solid #b7791f;padding-left:.8em;color:#5b4513}.hash{color:#777;font-size:.8em;"
        "overflow-wrap:anywhere}svg{width:100%;height:auto}</style>" + "".join(parts) + "</html>\n"
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(h)}</th>" for h in headings)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


Point = backtest_pb2.EquityPoint


def _scaled(
    points: Sequence[Point], of: Callable[[Point], int], width: int, height: int
) -> tuple[list[tuple[float, float]], int, int]:
    """Places within the frame, and the lowest and highest value."""
    values = [of(p) for p in points]
    times = [p.point_time.ToMicroseconds() for p in points]
    low, high = min(values), max(values)
    spread, span = max(high - low, 1), max(times[-1] - times[0], 1)
    return (
        [
            ((t - times[0]) / span * width, height - (v - low) / spread * height)
            for t, v in zip(times, values, strict=True)
        ],
        low,
        high,
    )


def _chart(points: Sequence[Point], of: Callable[[Point], int], colour: str) -> str:
    if not points:
        return "<p>There is no curve.</p>"
    places, low, high = _scaled(points, of, _WIDTH - 2 * _EDGE, _HEIGHT - _EDGE)
    line = " ".join(f"{x + _EDGE:.1f},{y + 15:.1f}" for x, y in places)
    first, last = (p.point_time.ToDatetime().strftime("%Y-%m-%d %H:%M") for p in (points[0], points[-1]))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img><polyline fill=none stroke="{colour}" stroke-width=1.5 '
        f'points="{line}"/><g font-size=11 fill=#555><text x=0 y=19>{usd(high)}</text>'
        f"<text x=0 y={_HEIGHT - _EDGE + 19}>{usd(low)}</text><text x={_EDGE} y={_HEIGHT - 12}>{first}</text>"
        f"<text x={_WIDTH - _EDGE} y={_HEIGHT - 12} text-anchor=end>{last}</text></g></svg>"
    )


def png(points: Sequence[Point], disclaimer: str, width: int = 1200, height: int = 500) -> bytes:
    """The equity curve as a picture; the risk disclosure is in its text chunk, where image viewers show comments."""
    pixels = bytearray(b"\xff" * (width * height * 3))

    def dot(x: int, y: int, colour: bytes) -> None:
        if 0 <= x < width and 0 <= y < height:
            at = (y * width + x) * 3
            pixels[at : at + 3] = colour

    margin = 30
    for x in range(margin, width - margin):
        dot(x, height - margin, b"\xbb\xbb\xbb")
    for y in range(margin, height - margin):
        dot(margin, y, b"\xbb\xbb\xbb")
    if points:
        places, _, _ = _scaled(points, lambda p: p.equity_micros, width - 2 * margin, height - 2 * margin)
        for (x0, y0), (x1, y1) in pairwise(places):
            steps = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
            for k in range(steps + 1):
                across, down = x0 + (x1 - x0) * k / steps + margin, y0 + (y1 - y0) * k / steps + margin
                for dy in (0, 1):
                    dot(int(across), int(down) + dy, b"\x25\x63\xa8")
    rows = b"".join(b"\0" + pixels[y * width * 3 : (y + 1) * width * 3] for y in range(height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"tEXt", b"Disclaimer\0" + disclaimer.encode("latin-1", "replace"))
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
