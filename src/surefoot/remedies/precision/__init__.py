"""Remedies that act on the format of numbers."""
