"""How a training is seen: finding its models, and the hooks that tell of its steps."""
