"""Volunteer speculative decoding over the wide area network: idle machines draft, the target decides every token."""

__version__ = "0.1.0"
