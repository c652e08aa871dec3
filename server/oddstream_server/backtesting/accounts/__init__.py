"""The second half of a run: exact products, dated fees, lots and the bankroll."""
