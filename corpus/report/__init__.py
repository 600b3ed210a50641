"""The part to report on: no rule and no threshold was chosen in sight of these trainings.

A case is a row: an architecture, a task, an optimizer and, in a faulty case, one change. Once its
mistakes have been read, a row belongs to `corpus.tune`.
"""

from corpus.trainings.rows import Rows

ROWS = Rows("report")
sound, broken = ROWS.sound, ROWS.broken
