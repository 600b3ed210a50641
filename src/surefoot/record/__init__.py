"""Where a run is kept: its folder, written while it trains and read at any time."""

from surefoot.record.folder import RunSummary as RunSummary
from surefoot.record.folder import list_runs as list_runs
from surefoot.record.folder import new_folder as new_folder
from surefoot.record.following import Follower as Follower
from surefoot.record.reader import read_run as read_run
from surefoot.record.schema import RecordError as RecordError
from surefoot.record.writer import Writer as Writer
