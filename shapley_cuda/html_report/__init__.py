"""A run of pruning as one page of HTML: ``shapley-cuda report``."""

from .page import report_page
from .run import Cut, Run

__all__ = ["Cut", "Run", "report_page"]
