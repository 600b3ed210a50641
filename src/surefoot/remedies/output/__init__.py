"""What the last layer's output is put through, before it reaches the loss."""
