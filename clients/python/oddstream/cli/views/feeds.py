"""A venue's feed in words."""

from oddstream.cli import words
from oddstream.v1 import feed_status_pb2


def feed_words(venue: int, status: feed_status_pb2.FeedStatus, now_us: int) -> str:
    """A feed that isn't live, as one line."""
    state = words.word(feed_status_pb2.FeedState, status.state)
    meaning = {
        feed_status_pb2.FEED_STATE_STALE: "no data comes, quotes may be old",
        feed_status_pb2.FEED_STATE_GAP: "data was missed, books were taken anew",
        feed_status_pb2.FEED_STATE_DOWN: "no connection",
    }.get(status.state, "")
    last = (
        f"last data {words.ago(now_us - status.last_receive_time.ToMicroseconds())}"
        if status.HasField("last_receive_time")
        else "no data yet"
    )
    about = f" ({len(status.market_ids)} markets)" if status.market_ids else ""
    detail = f": {status.detail}" if status.detail else ""
    return f"FEED {state}  {words.venue(venue)}{about}  {meaning}, {last}{detail}"
