"""The command line: ``shapley-cuda``. One file for each command, and what they share."""

# The order is that of the list of commands.
from . import demo, groups, rank, prune, export, report, oracle, study, info  # isort: skip
from .app import app

__all__ = ["app", "demo", "export", "groups", "info", "oracle", "prune", "rank", "report", "study"]
