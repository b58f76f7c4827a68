"""Hostile input by the million: `python -m tests.fuzz` (docs/reference/bad-input.md)."""
