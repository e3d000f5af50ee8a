"""An artifact on several devices: one process for each, and how they share the work."""
