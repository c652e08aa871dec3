"""What operators do and see: halts, settings of strategies, runs, status, the audit log."""
