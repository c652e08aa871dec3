"""What signals came to: executions that bots report, and the outcomes of graded signals.

executions.py    fills, each stored once; listed by their owners
outcomes.py      what each signal came to, and the touch one quote later, written where the log is
performance.py   the record of a strategy: one aggregate over outcomes
"""
