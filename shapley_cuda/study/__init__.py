"""Studies: the comparison of rankings that the paper makes, on real networks, with one call.

>>> result = sc.run_study(sc.STUDIES["lenet5-small"])
>>> sc.write_study(result, "runs/study")  # JSON, tables, figures
"""

from .compare import Report
from .config import METHODS, STUDIES, StudyConfig, StudyMethod
from .results import LayerResult, MaskedAccuracy, Measurement, Oracle, Reference, Retrained, StudyResult
from .run import run_study
from .tables import StudyTable, markdown, study_tables
from .writing import write_study

__all__ = [
    "METHODS",
    "STUDIES",
    "LayerResult",
    "MaskedAccuracy",
    "Measurement",
    "Oracle",
    "Reference",
    "Report",
    "Retrained",
    "StudyConfig",
    "StudyMethod",
    "StudyResult",
    "StudyTable",
    "markdown",
    "run_study",
    "study_tables",
    "write_study",
]
