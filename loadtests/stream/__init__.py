"""How many deliveries a second the signal stream makes on one core, and how late, against simpler servers."""
