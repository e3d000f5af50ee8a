"""How we look: experiments, trials, the study, executors, fronts and reports."""
