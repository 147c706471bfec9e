"""What users name in a command: networks of their own, checkpoints, data sets and functions."""

from .data import DataSource, Samples, draw_samples, open_data
from .models import fingerprint, load_checkpoint, load_model
from .named import import_named

__all__ = [
    "DataSource",
    "Samples",
    "draw_samples",
    "fingerprint",
    "import_named",
    "load_checkpoint",
    "load_model",
    "open_data",
]
