"""What every call shares: its context, pages, mutations that happen once."""
