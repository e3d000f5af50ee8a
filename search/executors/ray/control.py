"""Ray Tune scheduler and callback, which act on the searcher's decisions."""

from typing import Any

from search.executors.ray import losses  # isort: skip  # before Ray itself

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.executors.ray.searcher import StudySearcher


class RungScheduler(FIFOScheduler):  # type: ignore[misc]
    """Stops trials that the queue judges to be behind; starts trials in the study's order."""

    def __init__(self, searcher: StudySearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the next trial in order, after stopping those that wait for lost machines."""
        for trial in list(tune_controller.get_live_trials()):
            if self._searcher.is_stranded(trial.trial_id):
                tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tell the searcher the reason of a worker's failure, which Tune does not pass on."""
        self._searcher.worker_failed(trial.trial_id, losses.error_of(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a trial at its rung, or let it go on."""
        stop = self._searcher.judge(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class SearchCallback(tune.Callback):  # type: ignore[misc]
    """Tells the searcher which trials have started, and ends Tune when the searcher says so."""

    def __init__(self, searcher: StudySearcher) -> None:
        self._searcher = searcher
        self._trials: list[Any] = []

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell the searcher that a trial has its resources."""
        self._searcher.started(trial.trial_id)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raise the searcher's error, if any, which ends Tune whatever its trials are doing."""
        self._trials = trials
        self._searcher.check()

    def end_trials(self) -> None:
        """Kill the workers of running trials, which an interrupted Tune leaves running."""
        for trial in self._trials:
            if actor := trial.temporary_state.ray_actor:
                ray.kill(actor)
