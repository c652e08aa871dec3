import json

from oddstream.cli import json_lines
from oddstream.v1 import market_pb2, signal_pb2
from tests.client.cli.messages import a_market, a_signal, an_event


def test_an_event_is_one_line_whose_whole_numbers_are_integers_and_whose_enums_are_words():
    line = json_lines.line(json_lines.plain(an_event(2**53 + 1, a_signal(simulated=True))))
    assert "\n" not in line
    read = json.loads(line)
    assert read["sequence"] == 2**53 + 1
    assert read["type"] == "CREATED"
    assert read["create_time"] == "2026-05-28T20:26:40.000000Z"
    assert read["opening_net_edge_micros"] == 12_500
    signal = read["signal"]
    assert signal["data_origin"] == "SIMULATED"
    assert signal["legs"][0]["limit_price_micros"] == 430_000
    assert signal["legs"][0]["action"] == "BUY"
    assert signal["legs"][0]["venue"] == "KALSHI"
    assert signal["strength"] == 0.625


def test_every_field_of_the_contract_is_in_every_line_and_absent_is_null_and_not_zero():
    bare, full = json_lines.plain(signal_pb2.Signal()), json_lines.plain(a_signal())
    assert list(bare) == list(full)
    assert {f.name for f in signal_pb2.Signal.DESCRIPTOR.fields} - set(bare) == {"lock_up"}
    assert bare["net_edge_micros"] is None
    assert bare["grade"] is None
    assert bare["create_time"] is None
    assert bare["lock_up_us"] is None
    assert bare["all_or_none"] is False
    assert bare["legs"] == []


def test_spans_are_microseconds_and_maps_are_objects():
    plain = json_lines.plain(a_market())
    assert plain["taker_delay_us"] == 3_000_000
    assert plain["venue_ids"] == {"ticker": "NBA-26"}
    assert plain["price_ranges"][0]["tick_size_micros"] == 1_000


def test_a_value_that_this_version_does_not_know_is_its_number():
    assert json_lines.plain(market_pb2.Market(state=99))["state"] == "99"
