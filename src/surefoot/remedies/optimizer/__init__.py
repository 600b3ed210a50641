"""Remedies that act on the optimizer, its settings and what it holds."""
