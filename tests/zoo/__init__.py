"""Models of the transformers library, trained on real data: each healthy, and with each fault."""
