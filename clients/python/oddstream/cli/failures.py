"""What went wrong, why, and the way out, in words."""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from oddstream.errors import ContinuityBroken, OddstreamError

_SET_KEY = "set ODDSTREAM_API_KEY to a key of this server; `oddstream-server run` printed one at its first start"
_NEW_KEY = "check ODDSTREAM_API_KEY for a typing error, or ask an admin of the server for another key"
_LIST_MARKETS = "`oddstream markets list --text WORD` finds ids"
_LIST_SIGNALS = "`oddstream signals list` shows the latest ids"
_LIST_BACKTESTS = "`oddstream backtests list` shows the ids"
_RESTART = "start with `--from active`, or from a time with `--from 15m`"

_BY_REASON: Mapping[str, str] = {
    "API_KEY_MISSING": _SET_KEY,
    "API_KEY_INVALID": _NEW_KEY,
    "ACCESS_TOKEN_INVALID": "get a fresh access token and set ODDSTREAM_API_KEY to it",
    "CREDENTIAL_REVOKED": _NEW_KEY,
    "PERMISSION_DENIED": "use a key with the role named above; an admin gives it",
    "SCOPE_DENIED": "use a key whose scopes cover it, or leave it out of the question",
    "NETWORK_DENIED": "call from a network that the key allows",
    "MARKET_NOT_FOUND": _LIST_MARKETS,
    "EVENT_NOT_FOUND": _LIST_MARKETS,
    "SIGNAL_NOT_FOUND": _LIST_SIGNALS,
    "EXECUTION_CONFLICT": "it was reported before with other content, or by another key, and the first report stands; "
    "`oddstream executions list` shows yours",
    "STRATEGY_NOT_FOUND": "`oddstream strategies list` shows the ids",
    "SIGNAL_HISTORY_TRIMMED": _RESTART,
    "RESUME_POINT_AHEAD": _RESTART,
    "DATA_SET_CHANGED": f"the log is another one now: {_RESTART}",
    "RESUME_TOKEN_INVALID": _RESTART,
    "RESUME_TOKEN_FILTER_MISMATCH": "use the filter that the token was made with, or start from DATA_SET:SEQUENCE",
    "BACKTEST_NOT_FOUND": _LIST_BACKTESTS,
    "BACKTEST_NOT_FINISHED": "wait for its end with `oddstream backtests show`, or cancel it",
    "BACKTEST_WITHOUT_RESULT": "run it again with `oddstream backtests run`",
    "BACKTEST_WITHOUT_DATA": "choose another --from and --to, or other markets; `oddstream status` tells what is "
    "recorded now",
    "BACKTEST_QUOTA_EXCEEDED": f"wait for one to end, or cancel one: {_LIST_BACKTESTS}",
    "SWEEP_TOO_LARGE": "give --vary fewer values, or draw some sets at random with --draw",
    "STREAM_QUOTA_EXCEEDED": "end another stream of the same key first",
    "RATE_LIMITED": "call less often, or wait as long as it says",
    "METHOD_UNIMPLEMENTED": "upgrade the server",
    "INTERNAL": "tell the server's operator the reference below",
    "CONTINUITY_BROKEN": "report it with the numbers above; start again with `--from active`",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call for people; empty strings and tuples where there is nothing to say."""

    what: str
    reason: str
    details: tuple[str, ...]
    way_out: str
    reference: str


def failure_of(error: OddstreamError, target: str) -> Failure:
    """:param target: where the call went, for the case that nobody answered."""
    if not error.reason and error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        slow = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        return Failure(
            what=f"{target} {'gave no answer in time' if slow else 'is not answering'}",
            reason=error.code.name,
            details=(),
            way_out="start a server with `make run`, or name another with --target or ODDSTREAM_TARGET"
            "; a server behind TLS needs --tls",
            reference=error.correlation_id,
        )
    details = [f"{v.field}: {v.description}" for v in error.violations if v.description not in error.message]
    details += [
        f"about: {v.field}"
        for v in error.violations
        if v.description in error.message and v.field and v.field not in error.message
    ]
    details += [f"{name.replace('_', ' ')}: {value}" for name, value in sorted(error.metadata.items())]
    if error.retry_delay is not None:
        details.append(f"come back after {error.retry_delay:g} s")
    way_out = _BY_REASON.get(error.reason, "")
    if not way_out and error.code is grpc.StatusCode.INVALID_ARGUMENT:
        way_out = "correct the value; `--help` tells what each option takes"
    elif not way_out and error.code is grpc.StatusCode.UNAVAILABLE:
        way_out = "try again in a moment; `oddstream status` tells what is away"
    return Failure(
        what=error.message or error.code.name,
        reason=error.reason or error.code.name,
        details=tuple(details),
        way_out=way_out,
        reference=error.correlation_id,
    )


def failure_lines(failure: Failure) -> list[str]:
    lines = [f"Error: {failure.what} [{failure.reason}]", *(f"  {detail}" for detail in failure.details)]
    if failure.way_out:
        lines.append(f"  Way out: {failure.way_out}")
    if failure.reference:
        lines.append(f"  Reference: {failure.reference}")
    return lines


def break_words(error: OddstreamError | None, target: str) -> str:
    """Why a stream broke, in half a sentence."""
    if error is None:
        return f"{target} ended the stream"
    if isinstance(error, ContinuityBroken):
        return error.message
    return failure_of(error, target).what
