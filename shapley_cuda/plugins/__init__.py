"""The package inside other people's tools. Nothing else in it depends on these.

``ShapleyImportance`` is an importance for the pruners of ``torch_pruning``, ``as_shapiq_game`` a game for ``shapiq``,
``frame`` a table for ``pandas``. The last two packages are optional: ``pip install '.[ecosystem]'``.
"""

from .frames import frame
from .importance import ShapleyImportance
from .shapiq_game import as_shapiq_game

__all__ = ["ShapleyImportance", "as_shapiq_game", "frame"]
