"""Parser of the command line: data goes to stdout, everything else to stderr."""

import argparse
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from search.cli import sceptic
from search.errors import RESUMABLE, BadRun, SearchError, UnknownName
from spaces import Split

EXAMPLES = {
    "run": """examples:
  python -m search run                                  the embedded default: digits
  python -m search run experiment.toml --trials 20      your own experiment
  python -m search run gpu.toml --from runs/cpu         from the front of another run
  python -m search run --task task.py --time 20m        only a task: a space for this machine
  python -m search run --model timm:resnet18 --data photos --checkpoint weights.safetensors
                                                        a model of timm on a folder of images
models: timm:NAME, torchvision:NAME, hf:FOLDER, lightning:FILE.py
  NAME.TAG, as resnet18.a1_in1k, has the library's own weights, which it may download""",
    "resume": """examples:
  python -m search resume runs/digits                   continue where it stopped
  python -m search resume runs/digits --trials 60       a larger budget""",
    "init": """examples:
  python -m search init                                 task.py and experiment.toml, to fill in
  python -m search init mine                            in a folder of its own""",
    "check": """examples:
  python -m search check experiment.toml                task, data and space, no trial run""",
    "names": """examples:
  python -m search names                                all that an experiment can name""",
    "front": """examples:
  python -m search front runs/digits                    as a table
  python -m search front runs/digits --json | jq .      for programs""",
    "export": """examples:
  python -m search export runs/digits --pick knee --to model
  python -m search export runs/digits --pick trial=12 --to model
  python -m search export runs/digits --register digits
picks: knee, fastest, smallest, most-accurate, trial=N""",
    "measure": """examples:
  python -m search measure runs/digits/artifacts/12     validation data, as the search did
  python -m search measure model --split test""",
    "ui": """examples:
  python -m search ui runs/digits                       http://127.0.0.1:5000
  python -m search ui runs/digits --port 8080""",
    "doctor": """examples:
  python -m search doctor                               versions and what runtimes can execute
  python -m search doctor --noise                       the smallest difference that can be told""",
    **sceptic.EXAMPLES,
}
FORCE = "continue a run although code, data, settings or versions changed; the records note it"
FROM = "an ended run, also of another device or model: begin with the points of its front"
EXIT_CODES = """exit codes: 0 ok, also when --time was spent; 1 verify found a difference; 2 usage,
configuration or environment; 3 no trial succeeded; 75 stopped before the front was confirmed,
resumable; 130/143 interrupted, state saved"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error of the user prints one line."""
    parsed = vars(parser().parse_args(arguments))
    gc.disable()  # what imports make stays, and to look for garbage in it takes half a second
    importlib.import_module("search.api")
    gc.enable()
    # These libraries log messages for their own developers when user code imports them.
    for name in ("torch.utils._pytree", "torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)
    do: Callable[..., int] = parsed.pop("do")
    try:
        return do(**parsed)
    except SearchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return 128 + getattr(error, "number", signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Parser(argparse.ArgumentParser):
    """Argument parser with errors of one line that suggest the nearest command."""

    commands: Iterable[str] | None = None
    """Names of the commands; None in the parser of one command."""

    def error(self, message: str) -> Any:
        """Print the error and exit with code 2."""
        wrong = message.partition("invalid choice: '")[2].partition("'")[0]
        if wrong and self.commands:
            message = str(UnknownName("command", wrong, list(self.commands)))
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = _Parser(
        prog="python -m search",
        description="Find the best trade-offs of accuracy against speed that a model can reach.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    top.commands = commands.choices
    _run_commands(commands)
    _reading_commands(commands)
    return top


def _add(commands: Any, do: Callable[..., int]) -> argparse.ArgumentParser:
    """Add a command, with the docstring of its function as its help."""
    name = do.__name__.removesuffix("_")
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=(do.__doc__ or "").splitlines()[0],
        description=do.__doc__,
        epilog=EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(do=do)
    return command


def _run_commands(commands: Any) -> None:
    command = _add(commands, run)
    command.add_argument("experiment", nargs="?", type=Path, help="TOML file; default: digits")
    command.add_argument("--task", type=Path, help="a task.py instead of an experiment")
    command.add_argument("--model", metavar="LIBRARY:NAME", help="a model instead of a task.py")
    command.add_argument("--data", type=Path, help="its images by class, or its table of texts")
    command.add_argument("--checkpoint", type=Path, help="its trained weights: a state dict")
    command.add_argument("--out", type=Path, help="the run folder; default: runs/NAME")
    command.add_argument("--from", dest="start", metavar="RUN", type=Path, help=FROM)
    command.add_argument("--dry-run", action="store_true", help="show the plan, run no trial")
    resuming = _add(commands, resume)
    resuming.add_argument("folder", metavar="RUN", type=Path)
    for each in (command, resuming):
        each.add_argument("--trials", type=int, help="how many trials in all")
        each.add_argument("--time", help="start no trial after this time: 90s, 20m, 1.5h")
        each.add_argument("--workers", type=int, help="trials at the same time, through Ray Tune")
        each.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster; auto: this machine's")
        each.add_argument("--force", action="store_true", help=FORCE)
        each.add_argument("--json", action="store_true", help="print the front as JSON")


def _reading_commands(commands: Any) -> None:
    command = _add(commands, init)
    command.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=Path())
    command = _add(commands, check)
    command.add_argument("experiment", type=Path)
    command = _add(commands, names)
    command.add_argument("--json", action="store_true")
    command = _add(commands, front)
    command.add_argument("folder", metavar="RUN", type=Path)
    command.add_argument("--json", action="store_true")
    command = _add(commands, export)
    command.add_argument("folder", metavar="RUN", type=Path)
    command.add_argument("--pick", help="which member of the front; knee, or all with --register")
    command.add_argument("--to", type=Path, help="a folder that does not exist yet")
    command.add_argument("--register", metavar="NAME", help="a model of MLflow's registry")
    command = _add(commands, measure)
    command.add_argument("artifact", metavar="ARTIFACT", type=Path)
    command.add_argument("--split", choices=("validation", "test"), default="validation")
    command.add_argument("--task", type=Path, help="where task.py lies now, if it was moved")
    command = _add(commands, ui)
    command.add_argument("folder", metavar="RUN", type=Path, nargs="?")
    command.add_argument("--port", type=int, default=5000)
    sceptic.add_commands(_add, commands)
    command = _add(commands, doctor)
    command.add_argument("--noise", action="store_true", help="of this machine now: ten seconds")
    command.add_argument("--json", action="store_true")


def run(
    experiment: Path | None,
    task: Path | None,
    model: str | None,
    data: Path | None,
    checkpoint: Path | None,
    dry_run: bool,
    json: bool,
    **options: Any,
) -> int:
    """Search the space of an experiment until its budget is spent."""
    from search import api
    from search.checks import check as checking
    from search.cli import commands

    if dry_run:
        del options["out"], options["force"]
        start = options.pop("start")
        chosen = api.experiment_of(experiment, task, model, data, checkpoint)
        chosen = api.with_budget(chosen, **options)
        print("\n".join(checking.plan(chosen, api.front_of(start) if start else None)))
        return 0
    options |= {"task": task, "model": model, "data": data, "checkpoint": checkpoint}
    result = api.run(experiment, **options)
    print(commands.format_front(result, as_json=json))
    return 0 if result.confirmed else RESUMABLE


def resume(folder: Path, json: bool, **options: Any) -> int:
    """Continue a search where it stopped."""
    from search import api
    from search.cli import commands

    result = api.resume(folder, **options)
    print(commands.format_front(result, as_json=json))
    return 0 if result.confirmed else RESUMABLE


def init(folder: Path) -> int:
    """Write a commented task.py and an experiment, to be filled in; overwrite nothing."""
    from search.cli import starting

    print(starting.start(folder))
    return 0


def check(experiment: Path) -> int:
    """Check an experiment and its task without running a trial."""
    from search import api

    print("\n".join(api.check(experiment)))
    return 0


def names(json: bool) -> int:
    """List the techniques, objectives, runtimes and tasks that an experiment can name."""
    from search.cli import commands

    print(commands.list_names(as_json=json))
    return 0


def front(folder: Path, json: bool) -> int:
    """Print the front of a run, also of an unfinished search."""
    from search import api
    from search.cli import commands

    print(commands.format_front(api.open(folder), as_json=json))
    return 0


def export(folder: Path, pick: str | None, to: Path | None, register: str | None) -> int:
    """Copy the artifact of one member of the front to a folder, or register members in MLflow."""
    from search import api
    from search.cli import commands

    if to is None and register is None:
        raise BadRun("export needs --to DIR, --register NAME or both")
    result = api.open(folder)
    if to is not None:
        print(commands.export_member(result.pick(pick or "knee"), to))
    if register is not None:
        print(commands.register_members(result, pick, register))
    return 0


def measure(artifact: Path, split: Split, task: Path | None) -> int:
    """Load an artifact afresh and print its measurements as JSON."""
    from search import api
    from search.cli import commands

    print(commands.format_measurements(api.measure(artifact, split=split, task=task), split))
    return 0


def ui(folder: Path | None, port: int) -> int:
    """Open the MLflow UI on this machine's loopback address."""
    from search.cli import commands

    commands.ui(folder, port)


def doctor(noise: bool, json: bool) -> int:
    """Show versions, the processor and what each runtime can execute here."""
    if noise:
        print(sceptic.noise_report(as_json=json))
        return 0
    from search.cli import doctor as examination

    print(examination.report(as_json=json))
    return 0
