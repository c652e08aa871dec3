"""What was recorded: rows as columns, and what was known of the markets when."""
