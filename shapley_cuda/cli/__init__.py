"""The command line: ``shapley-cuda``. One file for each command, and what they share."""

from . import demo, groups, info, oracle, rank
from .app import app

__all__ = ["app", "demo", "groups", "info", "oracle", "rank"]
