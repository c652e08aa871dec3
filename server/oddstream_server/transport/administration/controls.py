"""Halts, runs of the pipeline and settings of strategies, as messages and from them."""

from oddstream.v1 import admin_service_pb2, halt_pb2, pipeline_run_pb2, strategy_pb2, venue_pb2
from oddstream_server.application.operations.strategy_settings import ParameterInput, StrategyUpdate
from oddstream_server.application.ports import PipelineRunFilter
from oddstream_server.domain.halt import Halt, HaltScope, Reach
from oddstream_server.domain.market import Venue
from oddstream_server.domain.pipeline_run import PipelineRun, PipelineRunState, PipelineStage
from oddstream_server.transport.converters.values import (
    VENUES,
    chosen,
    duration,
    enum_table,
    one,
    span,
    stamp,
    timestamp,
)

STAGES = enum_table(PipelineStage, pipeline_run_pb2.PipelineStage, "PIPELINE_STAGE")
RUN_STATES = enum_table(PipelineRunState, pipeline_run_pb2.PipelineRunState, "PIPELINE_RUN_STATE")
_VALUES = {
    "integer_value": "integer",
    "micros_value": "micros",
    "duration_value": "duration",
    "boolean_value": "boolean",
    "word_value": "word",
}


def scope_of(message: halt_pb2.HaltScope) -> HaltScope:
    match message.WhichOneof("reach"):
        case "venue":
            return HaltScope(Reach.VENUE, one(VENUES, message.venue, "scope.venue").value)
        case "kind":
            return HaltScope(Reach.KIND, message.kind)
        case _:
            return HaltScope(Reach.EVERYTHING)


def halt_message(halt: Halt) -> halt_pb2.Halt:
    scope = halt_pb2.HaltScope()
    match halt.scope.reach:
        case Reach.VENUE:
            scope.venue = VENUES[Venue(halt.scope.target)]
        case Reach.KIND:
            scope.kind = halt.scope.target
        case Reach.EVERYTHING:
            scope.everything.SetInParent()
    return halt_pb2.Halt(
        halt_id=halt.halt_id,
        scope=scope,
        note=halt.note,
        ordered_by=halt.ordered_by,
        create_time=stamp(halt.create_time_us),
        lift_time=timestamp(halt.lift_time_us),
    )


def run_message(run: PipelineRun, now_us: int) -> pipeline_run_pb2.PipelineRun:
    took = None if run.begin_time_us is None else max(0, (run.end_time_us or now_us) - run.begin_time_us)
    return pipeline_run_pb2.PipelineRun(
        pipeline_run_id=run.run_id,
        venue=venue_pb2.VENUE_UNSPECIFIED if run.venue is None else VENUES[run.venue],
        stage=STAGES[run.stage],
        state=RUN_STATES[run.state],
        counts=run.counts,
        start_time=timestamp(run.begin_time_us),
        end_time=timestamp(run.end_time_us),
        duration=duration(took),
        error=run.error,
        requested_by=run.requested_by,
        create_time=stamp(run.create_time_us),
    )


def run_filter_of(message: admin_service_pb2.PipelineRunFilter) -> PipelineRunFilter:
    range_of = span(message.create_time_range, "filter.create_time_range")
    return PipelineRunFilter(
        venues=chosen(VENUES, message.venues, "filter.venues"),
        stages=chosen(STAGES, message.stages, "filter.stages"),
        states=chosen(RUN_STATES, message.states, "filter.states"),
        create_time_from_us=range_of.from_us,
        create_time_to_us=range_of.to_us,
    )


def asked_run_of(request: admin_service_pb2.RunPipelineRequest) -> tuple[PipelineStage, Venue | None]:
    venue = one(VENUES, request.venue, "venue") if request.venue else None
    return one(STAGES, request.stage, "stage"), venue


def strategy_update_of(request: admin_service_pb2.UpdateStrategyRequest) -> StrategyUpdate:
    asked = set(request.update_mask.paths)
    params = {name: _input(value) for name, value in request.strategy.params.items()}
    return StrategyUpdate(
        enabled=request.strategy.enabled if "enabled" in asked else None,
        params=params if "params" in asked else None,
        etag=request.etag,
    )


def _input(value: strategy_pb2.ParameterValue) -> ParameterInput:
    kind = _VALUES[value.WhichOneof("value") or "word_value"]
    match kind:
        case "integer":
            return ParameterInput(kind, value.integer_value)
        case "micros":
            return ParameterInput(kind, value.micros_value)
        case "duration":
            return ParameterInput(kind, value.duration_value.ToMicroseconds())
        case "boolean":
            return ParameterInput(kind, int(value.boolean_value))
        case _:
            return ParameterInput(kind, 0)  # no strategy takes words, so it is refused by its kind
