"""The guard: what is done to a step so that it does no harm."""
