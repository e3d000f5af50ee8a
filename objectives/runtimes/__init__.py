"""Programs that execute artifacts: one file each."""
