"""Worlds to try the shipped code in: hostile peers, and whole networks in virtual time."""
