"""The embedded task: the same seed trains the same network, whatever the machine is doing."""

from pathlib import Path

import torch

from objectives.tasks.digits import Digits


def test_the_same_seed_trains_the_same_network(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    trained = []
    for number in (1, 2):  # whatever was drawn before, and on as many threads as there are
        torch.manual_seed(number)
        torch.set_num_threads(number)
        try:
            task = Digits(cache=str(tmp_path / str(number)))
            trained.append(task.model().state_dict())
            assert torch.get_num_threads() == number
        finally:
            torch.set_num_threads(threads)
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    inputs, targets = next(task.batches("validation", 360))
    assert task.score(task.model()(inputs), targets) > 0.9
