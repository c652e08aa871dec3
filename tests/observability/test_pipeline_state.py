from prometheus_client import CollectorRegistry

from oddstream_server.domain.market import Venue
from oddstream_server.observability.pipeline_metrics import PipelineMetrics


def test_the_state_tells_how_old_each_venue_s_latest_data_is():
    metrics = PipelineMetrics(CollectorRegistry(), [Venue.KALSHI, Venue.SIMULATED], lambda: 5_000_000)
    metrics.data_received(Venue.KALSHI, 3_000_000)
    metrics.data_received(Venue.KALSHI, 2_000_000)
    ages = {name: venue["last_receive_age_us"] for name, venue in metrics.state()["venues"].items()}
    assert ages == {"kalshi": 2_000_000, "simulated": None}
