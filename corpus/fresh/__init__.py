"""Rows written later than those in `corpus.drawn`, by others, and drawn by lot in the same way.

Of every three twins one, by its name's checksum, was looked at with all its faults, and belongs to
the part to tune on. The others only report.
"""

from corpus.trainings.rows import Rows

ROWS = Rows("report", seen=1)
sound, broken = ROWS.sound, ROWS.broken
