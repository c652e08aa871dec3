"""From messages to what is shown: no I/O, the time is passed in."""
