"""Personal data: sealed, exported, erased, and kept no longer than said."""
