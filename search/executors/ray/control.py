"""What the searcher has Ray Tune do with trials under way: a scheduler and a callback."""

from typing import Any

from search.executors.ray import losses  # isort: skip  # before Ray itself

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.executors.ray.searcher import Asking


class Stopping(FIFOScheduler):  # type: ignore[misc]
    """Stops trials that the queue judges to be behind; the order is the study's."""

    def __init__(self, searcher: Asking) -> None:
        super().__init__()
        self._searcher = searcher

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Take back trials that wait for machines which have left; the order is as they came."""
        for trial in list(tune_controller.get_live_trials()):
            if self._searcher.cornered(trial.trial_id):
                tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note why a trial's worker failed: the searcher is told that it did, but not why."""
        self._searcher.fell(trial.trial_id, losses.error_of(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a trial at its rung, or let it go on."""
        stop = self._searcher.judge(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class Watching(tune.Callback):  # type: ignore[misc]
    """Tells the searcher which trials have got their resources, and ends Tune when it says so."""

    def __init__(self, searcher: Asking) -> None:
        self._searcher = searcher
        self._trials: list[Any] = []

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a trial that starts."""
        self._searcher.started(trial.trial_id)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """End the search when it is to end, whatever the trials under way are doing."""
        self._trials = trials
        self._searcher.check()

    def end_trials(self) -> None:
        """End the trials under way: an interrupt ends Tune, and leaves them running."""
        for trial in self._trials:
            if actor := trial.temporary_state.ray_actor:
                ray.kill(actor)
