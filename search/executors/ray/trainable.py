"""What Ray Tune starts on a worker; imports little, so that there is no waiting for it."""

from typing import Any

from ray import tune

from search.trial_process import context_for


class Trial(tune.Trainable):  # type: ignore[misc]
    """One trial at a time in a worker that stays: it forks a fresh process for each."""

    def setup(self, config: dict[str, Any]) -> None:
        """Start the first trial."""
        context_for(config["measuring_threads"])  # imports the libraries while this process does
        from search.executors.ray.worker import Evaluation

        self._kind = Evaluation
        self._trial: Evaluation | None = Evaluation(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial in the same worker."""
        self.cleanup()
        self._trial = self._kind(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return the next message of the trial; raises Killed when it may succeed elsewhere."""
        assert self._trial is not None
        return self._trial.step()

    def cleanup(self) -> None:
        """End the trial, however far it is."""
        if self._trial is not None:
            self._trial.close()
            self._trial = None
