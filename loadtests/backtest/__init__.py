"""The backtest engine measured beside what it could cost at least and beside other engines."""
