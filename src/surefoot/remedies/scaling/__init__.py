"""Remedies that act on the scale of inputs, targets and loss."""
