"""Backtests and sweeps as jobs: checked when they are made, computed by child processes of workers.

planning.py   a spec checked, with defaults, and as the engine wants it
reading.py    the universe and the shards of a run from recorded data
computing.py  what a child does: one backtest, or one step of a sweep
outcomes.py   the engine's results as the domain's
children.py   a child process with its limits
running.py    what a worker does with a job: claim, child, fence, try again
queue.py      the job queue's worker
"""
