"""Rows of both parts, drawn by lot before any verdict on them was seen.

A case is a row: an architecture, a task, an optimizer and, in a faulty case, one change. Every
third twin, by the checksum of its name, was looked at with all its faults, and belongs to the part
to tune on. The others only report: no rule and no threshold was chosen in sight of them.
"""

from corpus.trainings.rows import Rows

ROWS = Rows("report", seen=3)
sound, broken = ROWS.sound, ROWS.broken
