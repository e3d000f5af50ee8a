"""Choose the runtime that executes the artifact."""

import dataclasses

from spaces import Entries, Plan, Stage, Technique, axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime(Technique):
    """Export to, and run on, the runtime `name`: an entry of objectives/runtimes."""

    stage = Stage.DEPLOY
    name: str = axis("eager", Entries("runtime"), unit="runtime", short="")

    def plan(self, plan: Plan) -> Plan:
        """Set the runtime."""
        return dataclasses.replace(plan, runtime=self.name)
