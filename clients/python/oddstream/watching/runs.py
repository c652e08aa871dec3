"""Backtests and sweeps from the reader's side: followed over breaks until they have ended."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from oddstream.v1 import backtest_pb2, backtest_service_pb2, sweep_pb2
from oddstream.watching.cursor import Cursor, Message, OnBreak, Request

Run = TypeVar("Run", backtest_pb2.Backtest, sweep_pb2.Sweep)

_UNDER_WAY = {
    backtest_pb2.BACKTEST_STATE_QUEUED,
    backtest_pb2.BACKTEST_STATE_RUNNING,
    sweep_pb2.SWEEP_STATE_QUEUED,
    sweep_pb2.SWEEP_STATE_RUNNING,
}


class RunCursor(Cursor[Request, Message, Run]):
    """A watch of one backtest or sweep: gives it at each change, and finishes with it whole.

    :param run_of: takes the run out of a message that has one, else None.
    """

    def __init__(
        self, request: Request, run_of: Callable[[Message], Run | None], *, on_break: OnBreak | None = None
    ) -> None:
        super().__init__(on_message=None, on_break=on_break)
        self._request = request
        self._run_of: Callable[[Message], Run | None] = run_of

    def _next_request(self) -> Request:
        return self._request

    def _take_items(self, message: Message) -> Iterator[Run]:
        run = self._run_of(message)
        if run is not None:
            self.finished = run.state not in _UNDER_WAY
            yield run


BacktestCursor = RunCursor[
    backtest_service_pb2.WatchBacktestRequest, backtest_service_pb2.WatchBacktestResponse, backtest_pb2.Backtest
]
SweepCursor = RunCursor[
    backtest_service_pb2.WatchSweepRequest, backtest_service_pb2.WatchSweepResponse, sweep_pb2.Sweep
]


def backtest_cursor(backtest_id: str, on_break: OnBreak | None) -> BacktestCursor:
    return RunCursor(
        backtest_service_pb2.WatchBacktestRequest(backtest_id=backtest_id),
        lambda message: message.backtest if message.HasField("backtest") else None,
        on_break=on_break,
    )


def sweep_cursor(sweep_id: str, on_break: OnBreak | None) -> SweepCursor:
    return RunCursor(
        backtest_service_pb2.WatchSweepRequest(sweep_id=sweep_id),
        lambda message: message.sweep if message.HasField("sweep") else None,
        on_break=on_break,
    )
