"""Mirror a study in MLflow; importing MLflow takes seconds and is left to `mlflow_store`."""

from search.tracking.background import Background
from search.tracking.tracker import Tracker

__all__ = ["Background", "Tracker", "addresses", "mlflow_store"]
