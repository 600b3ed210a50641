"""The version of surefoot, as installed; it is written in pyproject.toml and nowhere else."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("surefoot")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0+unknown"
