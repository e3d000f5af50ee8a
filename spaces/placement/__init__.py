"""Where the artifact runs."""
