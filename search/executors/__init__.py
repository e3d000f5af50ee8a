"""The catalogue of executors: where trials run."""
