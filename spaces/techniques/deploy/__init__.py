"""Choose what executes the artifact."""
