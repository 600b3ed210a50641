"""The part to report on: no rule and no threshold was chosen in sight of these trainings.

A case is a row of a table (`healthy.py`, `faulty_*.py`): an architecture, a task, an optimizer and,
in a faulty case, one change. The rows are all that differs; `fit.py` trains them, `loops.py` and
`play.py` hold the trainings that are no plain supervised loop.
"""
