"""Page tokens and resume tokens: what goes in comes out, and nothing else is taken."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddstream.v1 import market_service_pb2, signal_service_pb2, venue_pb2
from oddstream_server.application.ports import Key
from oddstream_server.domain.errors import InvalidArgument, PageTokenMismatch, ResumeTokenFilterMismatch
from oddstream_server.transport.tokens import ResumePoint, next_page_token, page_request, resume_point, resume_token

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)
KEYS = st.lists(st.one_of(st.integers(-(10**17), 10**17), TEXTS), min_size=1, max_size=4).map(tuple)


def request(**fields: Any) -> market_service_pb2.ListMarketsRequest:
    return market_service_pb2.ListMarketsRequest(
        filter=market_service_pb2.MarketFilter(venues=[venue_pb2.VENUE_KALSHI], text="btc"), **fields
    )


@given(KEYS)
def test_a_key_comes_back_as_it_went(key: Key) -> None:
    token = next_page_token(request(), key)
    assert page_request(request(page_token=token), *map(type, key)).after == key


def test_the_last_page_has_no_token_and_the_first_needs_none() -> None:
    assert next_page_token(request(), None) == ""
    assert page_request(request()).after is None


def test_another_page_size_is_no_other_argument() -> None:
    token = next_page_token(request(page_size=5), ("kalshi:A",))
    assert page_request(request(page_size=100, page_token=token), str).after == ("kalshi:A",)


def test_changed_arguments_do_not_fit_the_token() -> None:
    token = next_page_token(request(), ("kalshi:A",))
    for changed in (
        market_service_pb2.ListMarketsRequest(page_token=token),
        request(view=2, page_token=token),
        market_service_pb2.ListEventsRequest(page_token=token),
        signal_service_pb2.ListSignalsRequest(page_token=token),
    ):
        with pytest.raises(PageTokenMismatch):
            page_request(changed, str)


@pytest.mark.parametrize(
    "garbage", ["x", "pAAAA", "p!!!!", "é", "pCAE", "p" + base64.urlsafe_b64encode(b"\x08\x63").decode()]
)
def test_garbage_is_no_page_token(garbage: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        page_request(request(page_token=garbage), str)
    assert raised.value.reason == "PAGE_TOKEN_INVALID"
    assert raised.value.violations[0].field == "page_token"


@pytest.mark.parametrize("key", [(5,), ("a", "b"), (), ("a\0",)])
def test_a_made_up_token_has_to_fit_the_columns(key: Key) -> None:
    with pytest.raises(InvalidArgument) as raised:
        page_request(request(page_token=next_page_token(request(), key)), str)
    assert raised.value.reason == "PAGE_TOKEN_INVALID"


def test_a_made_up_instant_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        page_request(request(page_token=next_page_token(request(), (2**63 - 1,))), int)


@given(st.text(min_size=1, max_size=200).map(lambda text: text.encode("utf-8", "ignore").decode() or "x"))
def test_no_text_gets_past_but_with_a_named_error(text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        page_request(request(page_token=text), str)
    assert raised.value.reason in ("PAGE_TOKEN_INVALID", "PAGE_TOKEN_MISMATCH")


@given(st.integers(0, 2**63 - 1), st.binary(min_size=1, max_size=32))
def test_a_resume_point_comes_back_for_the_same_filter(sequence: int, digest: bytes) -> None:
    point = ResumePoint("ds_aaaaaaaaaaaaaaaa", sequence)
    assert resume_point(resume_token(point, digest), digest) == point


def test_a_resume_token_of_another_filter_names_the_other_way() -> None:
    token = resume_token(ResumePoint("ds_aaaaaaaaaaaaaaaa", 7), b"one filter")
    with pytest.raises(ResumeTokenFilterMismatch, match="data_set_id, sequence"):
        resume_point(token, b"another")


@pytest.mark.parametrize("garbage", ["x", "rAAAA", "", next_page_token(request(), ("kalshi:A",))])
def test_garbage_is_no_resume_token(garbage: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        resume_point(garbage, b"")
    assert raised.value.reason == "RESUME_TOKEN_INVALID"
