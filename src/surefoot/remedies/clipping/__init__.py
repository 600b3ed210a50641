"""Remedies that limit a step, or hold it back."""
