"""Skip connections around blocks that keep the width of their input."""
