"""The part to tune on: rules and thresholds were chosen in sight of these trainings."""
