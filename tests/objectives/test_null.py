"""The null runtime: computed times, real outputs."""

import pytest
import torch
from _runtimes import Mixed, Tiny, ship, truth

from objectives import Target
from objectives.runtimes.null import Null
from spaces import Encoding

WEIGHTS = 5 * 32 + (16 * 32 + 32) + (32 * 6 + 6)


@pytest.mark.parametrize(
    ("encoding", "share"),
    [
        (Encoding(), 1.0),
        (Encoding(dtype="bfloat16"), 0.5),
        (Encoding(weight_bits=8), 0.625),
        (Encoding(weight_bits=8, activation_bits=8), 0.25),
        (Encoding(weight_bits=8, dtype="bfloat16"), 0.375),
    ],
)
def test_seconds_are_weights_times_bits(tmp_path, encoding, share):
    target = Target(batch_size=3, threads=torch.get_num_threads())
    program = ship(Null(ns_per_weight=2.0), Tiny(Mixed), tmp_path / "a", encoding, target)
    assert program.seconds(None) == pytest.approx(2e-9 * WEIGHTS * 3 * share)


def test_outputs_are_real(tmp_path):
    task, target = Tiny(Mixed), Target(threads=torch.get_num_threads())
    inputs, expected = truth(task, 5)
    exact = ship(Null(), task, tmp_path / "a", target=target)(inputs)
    torch.testing.assert_close(exact["logits"], expected["logits"], rtol=0, atol=1e-5)
    encoding = Encoding(weight_bits=8, activation_bits=8)
    near = ship(Null(), task, tmp_path / "b", encoding, target)(inputs)
    assert 0 < (near["logits"] - expected["logits"]).abs().max() < 0.05


def test_refuses_bits_that_it_does_not_round_to():
    reason = Null().refuses(Encoding(activation_bits=4), Target(), frozenset())
    assert "knows 8-bit and 32-bit activations, not 4-bit ones" in reason
