"""Remedies that act on the learning rate."""
