"""A study in MLflow. MLflow takes seconds to import: only `mlflow_store` does."""

from search.tracking.background import Background
from search.tracking.tracker import Tracker

__all__ = ["Background", "Tracker", "addresses", "mlflow_store"]
