"""Specs, results and progress as JSON documents and back; the domain's dataclasses say what is in them."""

from typing import Any, Final

from pydantic import TypeAdapter

from oddstream_server.domain.backtest import (
    BacktestResult,
    BacktestSpec,
    Run,
    RunError,
    RunKind,
    RunProgress,
    RunState,
    SweepResult,
    SweepSpec,
)

_BACKTEST_SPEC: Final = TypeAdapter(BacktestSpec)
_SWEEP_SPEC: Final = TypeAdapter(SweepSpec)
_BACKTEST_RESULT: Final = TypeAdapter(BacktestResult)
_SWEEP_RESULT: Final = TypeAdapter(SweepResult)
_PROGRESS: Final = TypeAdapter(RunProgress)
_ERROR: Final = TypeAdapter(RunError)
_ANY: Final[TypeAdapter[Any]] = TypeAdapter(Any)

RUN_COLUMNS: Final = (
    "run_id, create_number, kind, owner, display_name, spec, set_count, state, attempt, revision, progress, error, "
    "create_time, start_time, end_time"
)


def document(value: object) -> str:
    """Any of the dataclasses as JSON; floats come back as the same floats."""
    return _ANY.dump_json(value).decode()


def run_of(row: Any) -> Run:
    """A row of :data:`RUN_COLUMNS`."""
    kind = RunKind(row["kind"])
    return Run(
        run_id=row["run_id"],
        kind=kind,
        owner=row["owner"],
        display_name=row["display_name"],
        spec=(_BACKTEST_SPEC if kind is RunKind.BACKTEST else _SWEEP_SPEC).validate_python(row["spec"]),
        state=RunState(row["state"]),
        attempt=row["attempt"],
        progress=_PROGRESS.validate_python(row["progress"]),
        create_time_us=row["create_time"],
        start_time_us=row["start_time"],
        end_time_us=row["end_time"],
        error=None if row["error"] is None else _ERROR.validate_python(row["error"]),
        set_count=row["set_count"],
        revision=row["revision"],
        create_number=row["create_number"],
    )


def result_of(kind: RunKind, body: Any) -> BacktestResult | SweepResult:
    return (_BACKTEST_RESULT if kind is RunKind.BACKTEST else _SWEEP_RESULT).validate_python(body)
