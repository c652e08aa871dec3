"""Backtests: the strategies' own kernels over recorded columns, honest fills, one bankroll, and what came of it.

Everything here is pure: integer columns in, a result out, no I/O. A run has two halves. The first one works on a shard
of markets, on any worker: kernels make intents (:mod:`signals`, :mod:`groups`), and intents meet the book
(:mod:`fills`). The second one (:mod:`portfolio`) walks what all shards found in one order of time, with one bankroll.
"""
