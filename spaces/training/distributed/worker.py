"""The worker process of one device in a training on several; takes FOLDER RANK DESCRIPTOR.

It builds the user's task, model and data itself; the folder contains the other settings.
"""

import dataclasses
import datetime
import json
import os
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from spaces import processes
from spaces.devices import device_of
from spaces.messages import said
from spaces.modules import seeded, surgery
from spaces.technique import Infeasible
from spaces.training.distributed.launcher import JOB, MODEL, REFERENCE, RESULT
from spaces.training.loop import Diverged
from spaces.training.recovery import train
from spaces.training.world import World
from spaces.wire import decode

TIMEOUT = datetime.timedelta(minutes=5)
"""Time that one process waits for the others before it gives up."""


def main(folder: Path, rank: int, connection: Connection) -> None:
    """Train as rank `rank`; the last message is "done" or the reason of a failure."""
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    code = 1
    try:
        _work(folder, rank, connection)
        code = 0
        _send(connection, done=True)
    except Infeasible as error:
        _send(connection, infeasible=str(error))
    except Diverged as error:
        # as text, since messages cannot contain NaN
        _send(connection, diverged=[error.step, str(error.loss), error.learning_rate])
    except Exception as error:  # from the user's code or a library; reported to the launcher
        traceback.print_exc()
        _send(connection, error=said(error))
    sys.stdout.flush()
    sys.stderr.flush()
    # without exit handlers, in which libraries wait for peers that may be gone
    os._exit(code)


def _work(folder: Path, rank: int, connection: Connection) -> None:
    job = json.loads((folder / JOB).read_text())
    torch.set_num_threads(job["threads"])
    kind, sharded = device_of(job["device"]), job["sharded"]
    device = kind.select(rank)
    task = decode(job["task"])
    model, reference = (surgery.load(folder / f, task.model().eval()) for f in (MODEL, REFERENCE))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in job["frozen"])
    if not sharded:  # a sharded model would not fit: each process moves only its part
        model.to(device)
    dist.init_process_group(
        kind.backend,
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=job["count"],
        timeout=TIMEOUT,
    )

    def report(step: int, steps: int, loss: float) -> None:
        if rank == 0:
            _send(connection, step=[step, steps, loss])

    world = World(rank=rank, count=job["count"], sharded=sharded)
    with seeded(job["seed"]), torch.enable_grad():
        recovery = decode(job["recovery"])
        outcome = train(model.float(), reference, task, recovery, world, device, report)
    if rank == 0:
        _send(connection, outcome=dataclasses.asdict(outcome))
    _save_result(model, folder, world)
    dist.destroy_process_group()


@torch.no_grad()
def _save_result(model: nn.Module, folder: Path, world: World) -> None:
    """Write the trained parameters and buffers; every process contributes its part."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    result = {
        name: world.gathered(tensor).cpu().contiguous().clone() for name, tensor in tensors.items()
    }
    if world.rank == 0:
        save_file(result, folder / RESULT)


def _end_with_parent(connection: Connection) -> None:
    """End this process as soon as the other end of the connection is closed."""
    try:
        connection.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _send(connection: Connection, **message: Any) -> None:
    processes.send(connection, message)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Connection(int(sys.argv[3])))
