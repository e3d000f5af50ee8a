"""Logit distillation: recovery training on the data and the uncompressed model's logits."""

import dataclasses
from typing import Self

from spaces.dimension import axis, choice
from spaces.outputs import Outputs
from spaces.plan import Plan
from spaces.technique import Stage, Technique


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logits(Technique):
    """Train the shaped model for a few steps with the uncompressed model as its teacher.

    The loss is (1 - weight) x the task's loss + weight x T^2 x the Kullback-Leibler divergence
    between the classes of teacher and student, softened by T. Source: Hinton et al. 2015,
    Distilling the Knowledge in a Neural Network, section 2. With hard labels, the teacher's term is
    the cross-entropy with its most probable class instead. Source: Touvron et al. 2021, Training
    data-efficient image transformers, section 4. Outputs with a single column (a regressed value,
    the logit of one class) have no classes to soften or to choose from: the teacher's term is the
    mean squared difference, regardless of temperature and labels.
    """

    stage = Stage.TRAIN
    temperature: float = axis(
        1.0, choice(1.0, 2.0, 4.0, 8.0), unit="divisor of logits", short="T{value}"
    )
    steps: int = axis(0, choice(0, 50, 200), unit="optimizer steps", short="{value} steps")
    labels: str = axis("soft", choice("soft", "hard"), unit="kind of the teacher's labels")
    weight: float = 0.9
    """Share of the teacher's term in the loss, 0..1; 0 is plain fine-tuning, 1 uses no labels."""
    learning_rate: float = 0.0
    """Peak learning rate, of SGD for models with batch normalisation and of AdamW for others; 0
    chooses by the kind of model."""
    batch_size: int = 0
    """Samples per step; 0 chooses by the model's operations, 8 to 256."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.steps < 0:
            raise ValueError(f"steps must be 0 or more optimizer steps, got {self.steps}")
        if self.labels not in ("soft", "hard"):
            raise ValueError(f"labels must be soft or hard, got {self.labels!r}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must be between 0 and 1, got {self.weight}")
        if self.learning_rate < 0:
            raise ValueError(
                f"learning_rate must be 0 (automatic) or more, got {self.learning_rate}"
            )
        if self.batch_size < 0:
            raise ValueError(f"batch_size must be 0 (automatic) or more, got {self.batch_size}")

    def plan(self, plan: Plan) -> Plan:
        """Set this training, unless it has no steps."""
        if self.steps == 0:
            return plan
        recovery = dataclasses.replace(
            plan.recovery,
            steps=self.steps,
            temperature=self.temperature,
            teacher_weight=self.weight,
            hard_labels=self.labels == "hard",
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
        )
        return dataclasses.replace(plan, recovery=recovery)

    def canonical(self) -> Self:
        """Return the setting with neutral labels and temperature where they have no effect."""
        if self.steps == 0 or self.weight == 0:
            return dataclasses.replace(self, temperature=1.0, labels="soft")
        if self.labels == "hard":
            return dataclasses.replace(self, temperature=1.0)
        return self

    def settled(self, plan: Plan, outputs: Outputs) -> Self:
        """Return the setting with neutral labels and temperature if no output has classes."""
        del plan
        if outputs.classes:
            return self
        return dataclasses.replace(self, temperature=1.0, labels="soft")

    def usual(self) -> tuple[Self, ...]:
        """Return a short and a long recovery."""
        return tuple(dataclasses.replace(self, steps=n, temperature=4.0) for n in (50, 200))
