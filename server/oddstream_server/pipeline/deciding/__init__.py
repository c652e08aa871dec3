"""What strategies make of ticks: kernel states and the catalog as of each row, live and in a replay."""
