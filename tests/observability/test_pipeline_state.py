from prometheus_client import CollectorRegistry

from oddstream_server.application.ports import HitRate
from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import DataOrigin
from oddstream_server.observability.pipeline_metrics import PipelineMetrics


def test_the_state_tells_how_old_each_venue_s_latest_data_is():
    metrics = PipelineMetrics(CollectorRegistry(), [Venue.KALSHI, Venue.SIMULATED], lambda: 5_000_000)
    metrics.data_received(Venue.KALSHI, 3_000_000)
    metrics.data_received(Venue.KALSHI, 2_000_000)
    ages = {name: venue["last_receive_age_us"] for name, venue in metrics.state()["venues"].items()}
    assert ages == {"kalshi": 2_000_000, "simulated": None}


def test_track_records_are_gauges_of_the_strategies_that_run_now():
    registry = CollectorRegistry()
    metrics = PipelineMetrics(registry, [Venue.KALSHI], lambda: 0)
    name, labels = "oddstream_strategy_hit_rate_ratio", {"strategy": "calib.longshot", "origin": "live"}
    metrics.hit_rates([HitRate("calib.longshot", 1, "d", DataOrigin.LIVE, 250, 560_000)])
    assert registry.get_sample_value(name, labels) == 0.56
    assert registry.get_sample_value("oddstream_strategy_graded_signals", labels) == 250
    metrics.hit_rates([])
    assert registry.get_sample_value(name, labels) is None
