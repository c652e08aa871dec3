"""Figures of a finished run, each with its convention and its source."""
