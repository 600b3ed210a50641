"""What it means: the gate, the outcome, the depth profile, the rules, and the one verdict."""

from surefoot.diagnosis.rules import RULES

__all__ = ["RULES"]
