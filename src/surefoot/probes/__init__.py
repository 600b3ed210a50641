"""Deliberate extra measurements of one step: its flow in full, its replay, its recurrences."""
