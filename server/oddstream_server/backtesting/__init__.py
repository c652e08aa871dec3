"""Backtests: the strategies' own kernels over recorded columns, honest fills, one bankroll, and what came of it.

Everything here is pure: integer columns in, a result out, no I/O. A run has two halves. The first one works on a shard
of markets, on any worker (:mod:`shards`): kernels make intents, and intents meet the book. The second one
(:mod:`engine`) walks what all shards found in one order of time, with one bankroll. :mod:`result` has the figures,
:mod:`sweeps` the same with many sets of parameters.
"""
