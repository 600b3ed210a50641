"""Initialisations: each sets the weights of the layers it is aimed at, and their biases to zero."""
