"""The graph of autograd: what is cut, joined again."""
