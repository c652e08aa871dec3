"""What signals came to: executions that bots report, and the outcomes of graded signals.

executions.py    fills, each stored once; listed by their owners
"""
