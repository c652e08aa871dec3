"""How the service does, as a message."""

from oddstream.v1 import system_status_pb2
from oddstream_server.domain.system_status import BreakerState, ComponentState, SystemStatus, VenueStatus
from oddstream_server.transport.administration.controls import halt_message, run_message
from oddstream_server.transport.converters.ticks import feed_status_message
from oddstream_server.transport.converters.values import VENUES, duration, enum_table, stamp, timestamp

COMPONENT_STATES = enum_table(ComponentState, system_status_pb2.ComponentState, "COMPONENT_STATE")
BREAKER_STATES = enum_table(BreakerState, system_status_pb2.BreakerState, "BREAKER_STATE")


def system_status_message(status: SystemStatus) -> system_status_pb2.SystemStatus:
    log, leader = status.signal_log, status.leader
    return system_status_pb2.SystemStatus(
        version=status.version,
        schema_revision=status.schema_revision,
        start_time=stamp(status.start_time_us),
        status_time=stamp(status.status_time_us),
        components=[
            system_status_pb2.ComponentStatus(
                name=component.name,
                state=COMPONENT_STATES[component.state],
                detail=component.detail,
                lag=duration(component.lag_us),
            )
            for component in status.components
        ],
        venues=map(_venue_message, status.venues),
        signal_log=system_status_pb2.SignalLogStatus(
            data_set_id=log.data_set_id,
            head_sequence=log.head_sequence,
            oldest_sequence=log.oldest_sequence,
            head_create_time=timestamp(log.head_create_time_us),
            stream_count=log.streams,
            maximum_stream_lag=log.maximum_stream_lag,
        ),
        leader=system_status_pb2.LeaderStatus(
            holder=leader.holder, epoch=leader.epoch, expire_time=timestamp(leader.expire_time_us)
        ),
        last_runs=[run_message(run, status.status_time_us) for run in status.last_runs],
        halts=map(halt_message, status.halts),
        queue_depth=status.queue_depth,
        degraded_features=status.degraded,
    )


def _venue_message(venue: VenueStatus) -> system_status_pb2.VenueStatus:
    return system_status_pb2.VenueStatus(
        venue=VENUES[venue.venue],
        feed_status=feed_status_message(venue.feed),
        feed_age=duration(venue.feed_age_us),
        breaker_state=BREAKER_STATES[venue.breaker],
        gap_count=venue.gaps,
        followed_market_count=venue.followed_markets,
        quarantined_count=venue.quarantined,
    )
