"""Operations that have no value, or no derivative, at some arguments."""
