"""What recovery training costs a step, and what each of its terms brings a pruned model.

    python experiments/recovery.py speed WORKLOAD --before COMMIT --steps 7
    python experiments/recovery.py quality WORKLOAD --ratio 0.3 --steps 100 --out results.jsonl

`speed` compares a step of this checkout's loop with that of an earlier commit, in turns in one
process; `quality` trains the same pruned model by several recipes and scores the validation split.
WORKLOAD is a folder with task.py, or digits. One thread. Seconds of `speed` are those of the
processor, which other processes do not disturb. With `quality` come the losses of the same training
samples before and after, and whether the training was kept: where it was not, the score is that of
the untrained model. A rate of 0 is the automatic one.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import subprocess
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from objectives.tasks.digits import Digits
from objectives.tasks.python import Python
from spaces import Recovery, Task
from spaces.modules import call, concatenate, seeded, surgery
from spaces.techniques.prune.channels import Channels
from spaces.training import recovery

PLAIN = Recovery(teacher_weight=0.9, temperature=4.0, batch_size=128)
SOFT = {
    f"logits, features {weight:g} x {layers or 'all'}": dataclasses.replace(
        PLAIN, feature_weight=weight, feature_layers=layers
    )
    for weight in (0.1, 1.0, 10.0, 30.0)
    for layers in (0, 3)
}
RECIPES = {
    "labels alone": dataclasses.replace(PLAIN, teacher_weight=0.0),
    "logits": PLAIN,
    "hard labels": dataclasses.replace(PLAIN, hard_labels=True),
    "hard labels, weight 0.5": dataclasses.replace(PLAIN, hard_labels=True, teacher_weight=0.5),
    **SOFT,
}


def earlier(commit: str) -> Callable[..., nn.Module]:
    """Return `recover` as it was at a commit, when it was one file."""
    source = subprocess.run(
        ["git", "show", f"{commit}:spaces/_recovery.py"], check=True, capture_output=True, text=True
    ).stdout
    module = types.ModuleType("earlier_recovery")
    exec(compile(source, "earlier_recovery", "exec"), module.__dict__)
    recover: Callable[..., nn.Module] = module.recover
    return recover


def seconds(
    recover: Callable[..., nn.Module], model: nn.Module, task: Task, recipe: Recovery
) -> list[float]:
    """Return the seconds of each step but the first."""
    ends: list[float] = []
    reference = task.model().eval()
    recover(
        model,
        reference,
        task,
        recipe,
        seed=0,
        progress=lambda *step: ends.append(time.process_time()),
    )
    return [b - a for a, b in itertools.pairwise(ends)]


def speed(task: Task, before: str, rounds: int, steps: int) -> None:
    """Print the median step of both loops, and the ratio with its range over the rounds."""
    loops = {"before": earlier(before), "now": recovery.recover}
    recipe = dataclasses.replace(PLAIN, steps=steps)
    medians: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds):
        order = list(loops) if turn % 2 else list(loops)[::-1]
        for name in order:
            found = seconds(loops[name], task.model(), task, recipe)
            medians[name].append(statistics.median(found))
    ratios = [b / a for a, b in zip(medians["before"], medians["now"], strict=True)]
    for name, values in medians.items():
        print(f"{name}: {1e3 * statistics.median(values):.1f} ms a step")
    print(f"ratio {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


def quality(task: Task, asked: argparse.Namespace) -> None:
    """Print, and append to a file, the score after each recipe."""
    reference, out = task.model().eval(), asked.out
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pruned = Channels(ratio=asked.ratio).apply(task.model().eval(), task)
        surgery.save(folder, reference, pruned)
        tell(out, recipe="pruned, untrained", score=score(pruned.eval(), task))
        runs = itertools.product(asked.seeds, asked.recipes, asked.rates)
        for seed, key, rate in runs:
            recipe = dataclasses.replace(
                RECIPES[key], steps=asked.steps, batch_size=asked.batch, learning_rate=rate
            )
            model = surgery.load(folder, task.model().eval())
            outcomes: list[recovery.Outcome] = []
            start = time.perf_counter()
            recovery.recover(
                model,
                reference,
                task,
                recipe,
                seed=seed,
                progress=lambda *step: None,
                ended=outcomes.append,
            )
            took = time.perf_counter() - start
            tell(
                out,
                recipe=key,
                seed=seed,
                rate=rate,
                score=score(model, task),
                before=round(outcomes[0].before, 4),
                after=round(outcomes[0].after, 4),
                kept=outcomes[0].kept,
                seconds=round(took, 1),
            )


def tell(out: Path, **found: object) -> None:
    """Print a result and keep it."""
    line = json.dumps(found)
    print(line, flush=True)
    with out.open("a") as file:
        file.write(line + "\n")


def score(model: nn.Module, task: Task) -> float:
    """Return the score of the validation split."""
    outputs, targets = [], []
    with torch.inference_mode(), seeded(0):
        for inputs, wanted in task.batches("validation", 250):
            outputs.append(call(model, inputs))
            targets.append(wanted)
    return round(task.score(concatenate(outputs), concatenate(targets)), 4)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "quality"))
    parser.add_argument("workload", type=Path)
    parser.add_argument("--before", default="637d918")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("recovery.jsonl"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = asked.workload.resolve()
    task = Digits() if asked.workload == Path("digits") else Python(file=str(folder / "task.py"))
    if asked.what == "speed":
        speed(task, asked.before, asked.rounds, asked.steps)
    else:
        quality(task, asked)


if __name__ == "__main__":
    main()
