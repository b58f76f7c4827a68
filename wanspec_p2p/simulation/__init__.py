"""Worlds to try the shipped code in: hostile peers today, virtual time and links to come."""
