"""Members of a front in MLflow's model registry, under the words by which they are picked."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search.errors import BadEnvironment, BadRun
from search.result import Member
from search.tracking import serving
from search.tracking.addresses import quietly, redact

IDENTITY = "paretune.artifact"
"""Tag of a version: what the artifact computes, so that it is registered once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model."""

    number: str
    trial: int
    aliases: tuple[str, ...]


def register(
    picks: Mapping[str, Member], name: str, tracking: Mapping[str, str]
) -> tuple[Version, ...]:
    """Register members as versions of the model `name`; each word becomes an alias.

    `tracking` has the addresses of the store, the experiment and the study's run. A member that is
    registered already keeps its version. Raises BadRun if the run was not tracked, BadEnvironment
    if the store refuses, BadArtifact if a member cannot be loaded without the user's code.
    """
    if not {"store", "experiment", "run"} <= set(tracking):
        raise BadRun("the run is in no MLflow store, so that its members cannot be registered")
    words: dict[int, list[str]] = {}
    for word, member in picks.items():
        words.setdefault(member.record.trial, []).append(word)
    members = {member.record.trial: member for member in picks.values()}
    try:
        with quietly(), _store(tracking["store"]):
            registry = _Registry(name, tracking)
            return tuple(
                registry.version(members[trial], tuple(aliases)) for trial, aliases in words.items()
            )
    except (MlflowException, OSError) as error:
        reason = redact(" ".join(str(error).split()))[:200]
        raise BadEnvironment(
            f"MLflow at {redact(tracking['store'])} registers no model {name}: {reason}"
        ) from error


@contextlib.contextmanager
def _store(address: str) -> Iterator[None]:
    """Let MLflow use a store in the block: its registry looks logged models up in that one."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(address)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


class _Registry:
    def __init__(self, name: str, tracking: Mapping[str, str]) -> None:
        self._name = name
        self._experiment, self._run = tracking["experiment"], tracking["run"]
        self._client = MlflowClient(tracking_uri=tracking["store"], registry_uri=tracking["store"])
        try:
            self._client.get_registered_model(name)
        except MlflowException:
            self._client.create_registered_model(name)
        found = self._client.search_model_versions(f"name = '{name}'")
        self._known = {version.tags.get(IDENTITY): str(version.version) for version in found}

    def version(self, member: Member, aliases: tuple[str, ...]) -> Version:
        """Return the version of a member, which is created if it is new, with these aliases."""
        identity = f"{member.record.facts.identity}-{member.record.trial}"
        number = self._known.get(identity) or self._created(member, identity)
        for alias in aliases:
            self._client.set_registered_model_alias(self._name, alias, number)
        return Version(number=number, trial=member.record.trial, aliases=aliases)

    def _created(self, member: Member, identity: str) -> str:
        trial = self._trial(member.record.trial)
        model: Any = self._client.create_logged_model(
            self._experiment, f"trial-{member.record.trial}", source_run_id=trial
        )
        with tempfile.TemporaryDirectory(prefix="register-") as scratch:
            serving.write(member.artifact, Path(scratch) / "model")
            self._client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
        self._client.finalize_logged_model(model.model_id, "READY")
        tags = {IDENTITY: identity, "trial": str(member.record.trial)}
        version = self._client.create_model_version(
            self._name, model.model_uri, trial, tags, model_id=model.model_id
        )
        return str(version.version)

    def _trial(self, trial: int) -> str | None:
        """Return the id of the run of a trial; None if the store has none."""
        condition = f"tags.`mlflow.parentRunId` = '{self._run}' and tags.trial = '{trial}'"
        runs = self._client.search_runs([self._experiment], condition, max_results=1)
        return str(runs[0].info.run_id) if runs else None
