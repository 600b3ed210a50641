"""Normalisation between an affine layer and its activation."""
