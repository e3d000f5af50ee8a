"""What is told of the operations that a runtime executes, beside what was asked."""

import json

import pytest

from objectives import Execution, Kind, Operation
from spaces import Encoding

INTEGERS = Encoding(weight_bits=8, activation_bits=8)
HALF = Encoding(dtype="bfloat16")
FEW_BITS = Encoding(weight_bits=4)


def operation(name: str, precision: str | None, count: int | None, **rest: object) -> Operation:
    kind = rest.pop("kind", Kind.CONVOLUTION)
    return Operation(name=name, kind=kind, precision=precision, multiply_adds=count, **rest)


def test_the_share_counts_multiply_adds_and_names_what_is_wider() -> None:
    found = [operation("a", "int8", 300), operation("b", "float32", 100)]
    execution = Execution.of(found, INTEGERS)
    assert (execution.share, execution.others) == (0.75, ("b (float32)",))
    assert execution.shortfall() == (
        "75 % of the multiply-adds are executed in int8 as asked; not so: b (float32)."
    )


def test_a_small_last_layer_is_no_shortfall_and_many_are_counted() -> None:
    last = operation("head", "float32", 10, kind=Kind.LINEAR)
    assert Execution.of([operation("a", "int8", 990), last], INTEGERS).shortfall() is None
    wide = [operation(f"w{i}", "float32", 10 - i) for i in range(5)]
    assert str(Execution.of(wide, INTEGERS).shortfall()).endswith(
        "not so: w0 (float32), w1 (float32), w2 (float32) and 2 more."
    )


@pytest.mark.parametrize(
    ("precision", "count", "share"),
    [("bfloat16", None, 1.0), ("float32", None, 0.0), (None, 5, None)],
)
def test_a_share_needs_counts_only_where_operations_differ(
    precision: str | None, count: int | None, share: float | None
) -> None:
    alike = [operation("a", precision, count), operation("b", precision, count)]
    execution = Execution.of(alike, HALF)
    assert (execution.share, execution.never) == (share, share == 0)
    mixed = Execution.of([operation("a", "bfloat16", None), operation("b", "float32", 9)], HALF)
    assert mixed.share is None
    assert mixed.shortfall() is None


def test_integers_are_asked_for_in_layers_and_types_in_every_product() -> None:
    product = operation("scores", "float32", 100, kind=Kind.PRODUCT)
    layer = operation("a", "int8", 100, kind=Kind.LINEAR)
    assert Execution.of([layer, product], INTEGERS).share == 1.0
    half = operation("a", "bfloat16", 100, kind=Kind.LINEAR)
    assert Execution.of([half, product], HALF).share == 0.5


@pytest.mark.parametrize(
    ("bits", "share", "words"), [(4, 1.0, None), (32, 0.0, "unpacked"), (None, None, None)]
)
def test_weights_alone_in_few_bits_ask_for_products_in_floats(
    bits: int | None, share: float | None, words: str | None
) -> None:
    layer = operation("a", "float32", 100, kind=Kind.LINEAR, weight_bits=bits)
    execution = Execution.of([layer], FEW_BITS)
    assert (execution.asked, execution.share, execution.few_bits) == ("float32", 1.0, share)
    assert execution.shortfall() is None
    told = execution.unpacked()
    assert words in str(told) if words else told is None


def test_one_sentence_tells_what_the_time_is_spent_on() -> None:
    found = [
        operation("a", "float32", 10, seconds=38e-6),
        operation("b", "int8", 10, seconds=25e-6),
        operation("c", "int8", 10, seconds=15e-6),
        operation("cast", None, None, kind=Kind.CONVERSION, seconds=21.5e-6),
        operation("add", None, None, kind=Kind.OTHER, seconds=0.5e-6),
    ]
    execution = Execution.of(found, INTEGERS, seconds=2e-4)
    assert execution.conversions == 0.215
    assert execution.why() == (
        "Its operations' time: 40 % in 2 int8 convolutions (longest 25 %), 38 % in one float32 "
        "convolution and 22 % in one conversion; 50 % of a run passes outside of them."
    )
    assert Execution.of([operation("a", "int8", 10)], INTEGERS).why() is None


def test_an_execution_survives_json() -> None:
    found = [operation("a", "int8", 300, seconds=1e-6), operation("b", "float32", 100)]
    execution = Execution.of(found, INTEGERS)
    assert Execution.from_json(json.loads(json.dumps(execution.to_json()))) == execution
