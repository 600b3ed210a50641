"""Activations put in the place of others, with the weights that belong to them."""
