"""Which program executes the artifact."""

import dataclasses

from spaces import Plan, Stage, Technique, axis, choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime(Technique):
    """Export to, and run on, the runtime `name`: a file of objectives/runtimes."""

    stage = Stage.DEPLOY
    name: str = axis(
        "eager", choice("eager", "inductor", "onnxruntime", "openvino"), unit="runtime"
    )

    def plan(self, plan: Plan) -> Plan:
        """Ask for this runtime."""
        return dataclasses.replace(plan, runtime=self.name)
