"""Remedies that act on the data."""
