"""The commands: read the options, call, hand the answer to a view."""
