"""How we look: experiments, trials, the study, executors, fronts and reports."""

__all__ = [
    "catalogue",
    "run_folder",
]
