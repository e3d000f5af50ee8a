"""Ray Tune trainable that runs trials in a worker; imports little, so that workers start fast."""

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory

from search.trial_process import context_for


def placement(config: Mapping[str, Any]) -> PlacementGroupFactory:
    """Return the request for the resources of a trial, not on the machine that it avoids.

    A function of the configuration alone: Ray sends it to the workers, which could not unpickle an
    experiment of the user's classes.
    """
    bundle = config["resources"]
    if config["avoid"] is None:
        return PlacementGroupFactory([bundle])
    elsewhere = [{"ray.io/node-id": f"!{config['avoid']}"}]
    return PlacementGroupFactory([bundle], bundle_label_selector=elsewhere)


class Trial(tune.Trainable):  # type: ignore[misc]
    """Long-lived worker that runs one trial at a time, each in a forked process."""

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
        """Return the next message of the trial; raises Killed if it may succeed elsewhere."""
        assert self._trial is not None
        return self._trial.step()

    def cleanup(self) -> None:
        """End the trial, finished or not."""
        if self._trial is not None:
            self._trial.close()
            self._trial = None
