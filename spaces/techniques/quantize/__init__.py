"""Store and compute with integers."""
