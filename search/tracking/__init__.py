"""A study in MLflow."""

from search.tracking.background import Mirror
from search.tracking.mlflow_store import Tracker

__all__ = [
    "Mirror",
    "Tracker",
    "addresses",
    "mlflow_store",
]
