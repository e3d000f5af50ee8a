"""Mirror a study in MLflow and register its members.

Importing MLflow takes seconds and is left to `mlflow_store` and `registry`.
"""

from search.tracking.background import Background
from search.tracking.tracker import Tracker

__all__ = ["Background", "Tracker", "addresses", "mlflow_store", "registry"]
