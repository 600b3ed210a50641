"""The proof: paired trials of remedies on a training, and what they have shown."""
