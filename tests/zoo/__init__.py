"""Other people's models, trained on real data by plain loops: each healthy, and each with a fault."""
