"""Rows written later than those in `corpus.drawn`, by others, and drawn by lot in the same way.

Of every three twins two, by the checksums of their names, were looked at with all their faults, and
belong to the part to tune on. The others only report.
"""

from corpus.trainings.rows import Rows

ROWS = Rows("report", seen=2)
sound, broken = ROWS.sound, ROWS.broken
