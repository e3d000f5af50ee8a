"""Operations are read from what each runtime reports: profiles, graphs, traces, generated code."""

from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from objectives import Execution, Kind, Operation
from objectives.exporting import torch_profile
from objectives.runtimes.inductor import products
from objectives.runtimes.onnxruntime import profile
from objectives.runtimes.openvino import execution_graph
from spaces import Encoding


def facts(operations: Any) -> dict[str, tuple[Any, ...]]:
    return {
        o.name: (o.kind, o.precision, o.multiply_adds, o.weight_bits, round(1e6 * o.seconds))
        for o in operations
    }


def event(name: str, op: str, dur: int, types: list[Any], outputs: list[Any]) -> dict[str, Any]:
    arguments = {"op_name": op, "input_type_shape": types, "output_type_shape": outputs}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": dur, "args": arguments}


def test_onnxruntimes_profile_with_weights_from_its_graph() -> None:
    nodes = [
        helper.make_node("QLinearConv", ["x", "s", "z", "w"], ["a"], name="conv"),
        helper.make_node("MatMul", ["a", "v"], ["b"], name="dense"),
        helper.make_node("MatMul", ["b", "b"], ["c"], name="scores"),
        helper.make_node("MatMulNBits", ["b", "q"], ["d"], name="coded", bits=4, accuracy_level=4),
    ]
    tensors = [
        helper.make_tensor("w", TensorProto.INT8, [8, 3, 3, 3], [0] * 216),
        helper.make_tensor("v", TensorProto.FLOAT, [4, 2], [0.0] * 8),
        helper.make_tensor("q", TensorProto.UINT8, [2, 1, 4], [0] * 8),
    ]
    graph = helper.make_graph(nodes, "g", [], [], tensors)
    image, matrix = [{"uint8": [1, 5, 5, 3]}], [{"float": [6, 4]}]
    events = [
        event("conv", "QLinearConv", 7, image, [{"uint8": [1, 5, 5, 8]}]),
        event("dense", "MatMul", 5, matrix, [{"float": [6, 2]}]),
        event("scores", "MatMul", 5, [*matrix, {"float": [4, 6]}], [{"float": [6, 6]}]),
        event("coded", "MatMulNBits", 3, matrix, [{"float": [6, 2]}]),
        event("cast", "QuantizeLinear", 2, matrix, [{"uint8": [6, 4]}]),
    ]
    assert facts(profile.parsed(events, graph)) == {
        "conv": (Kind.CONVOLUTION, "int8", 25 * 8 * 27, 8, 7),
        "dense": (Kind.LINEAR, "float32", 48, 32, 5),
        "scores": (Kind.PRODUCT, "float32", 144, None, 5),
        "coded": (Kind.LINEAR, "int8", 48, 4, 3),
        "cast": (Kind.CONVERSION, "float32", None, None, 2),
    }
    assert isinstance(graph, onnx.GraphProto)


class Port:
    """Stands for a port of a node of OpenVINO's execution graph."""

    def __init__(self, shape: list[int], type_name: str) -> None:
        self.shape, self.type_name = shape, type_name

    def get_shape(self) -> list[int]:
        return self.shape

    def get_element_type(self) -> "Port":
        return self

    def to_string(self) -> str:
        return self.type_name


class Node:
    """Stands for a node of OpenVINO's execution graph, or for a graph of one node."""

    def __init__(self, layer: str, ports: list[Port], output: list[int], primitive: str) -> None:
        self.info = {"layerType": layer, "primitiveType": primitive}
        self.ports, self.output = ports, output

    def get_ordered_ops(self) -> list["Node"]:
        return [self]

    def get_friendly_name(self) -> str:
        return "node"

    def get_rt_info(self) -> dict[str, str]:
        return self.info

    def inputs(self) -> list[Port]:
        return self.ports

    def outputs(self) -> list[Port]:
        return [Port(self.output, "f32")]


DENSE = [Port([6, 4], "f32"), Port([2, 4], "u8")]


@pytest.mark.parametrize(
    ("node", "rounds", "expected"),
    [
        (
            Node(
                "Convolution",
                [Port([1, 3, 5, 5], "u8"), Port([8, 3, 3, 3], "i8")],
                [1, 8, 5, 5],
                "jit_avx2_I8",
            ),
            False,
            (Kind.CONVOLUTION, "int8", 25 * 8 * 27, 8, 7),
        ),
        # weights are read in 8 bits and multiplied in floats
        (
            Node("FullyConnected", DENSE, [6, 2], "brgemm_avx2_f32"),
            False,
            (Kind.LINEAR, "float32", 48, 8, 7),
        ),
        # the graph does not tell if the kernel rounds its activations
        (
            Node("FullyConnected", DENSE, [6, 2], "brgemm_avx512_f32"),
            True,
            (Kind.LINEAR, None, 48, 8, 7),
        ),
        (
            Node("Reorder", [Port([6, 4], "bf16")], [6, 4], "reorder"),
            False,
            (Kind.CONVERSION, "bfloat16", None, None, 7),
        ),
    ],
)
def test_openvinos_execution_graph(node: Node, rounds: bool, expected: tuple[Any, ...]) -> None:
    found = execution_graph.parsed(node, {"node": 7e-6}, rounds=rounds)
    assert facts(found) == {"node": expected}
    assert execution_graph.parsed(node, {}, rounds=rounds) == ()  # folded at load


def scope(name: str, start: float, length: float, number: int = 0, **rest: Any) -> dict[str, Any]:
    category = "user_annotation" if name.startswith(torch_profile.LAYER) else "cpu_op"
    arguments = {"External id": number, **rest}
    return {"cat": category, "name": name, "ts": start, "dur": length, "tid": 1, "args": arguments}


def kernel(name: str, length: float, number: int) -> dict[str, Any]:
    return {"cat": "kernel", "name": name, "dur": length, "args": {"External id": number}}


SHAPES = {"Input Dims": [[6, 4], [2, 4], []], "Input type": ["c10::BFloat16", "c10::BFloat16", ""]}
TRACE = [
    scope("layer: head", 0, 20),
    scope("aten::linear", 1, 10, 1, **SHAPES),
    scope("aten::addmm", 2, 8, 2),
    scope("aten::add", 12, 4, 3),
]


def test_a_trace_of_a_cpu_has_the_times_of_calls() -> None:
    assert facts(torch_profile.parsed(TRACE, {})[:1]) == {
        "head": (Kind.LINEAR, "bfloat16", 48, 16, 10)
    }


def test_a_trace_of_a_gpu_has_the_times_of_kernels_also_of_packages() -> None:
    kernels = [
        kernel("nvjet_tst_128x64", 5, 2),
        kernel("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32", 9, 77),
    ]
    assert facts(torch_profile.parsed([*TRACE, *kernels], {})) == {
        "head": (Kind.LINEAR, "bfloat16", 48, 16, 5),
        "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32": (
            Kind.CONVOLUTION,
            "bfloat16",
            None,
            None,
            9,
        ),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("triton_poi_fused__to_copy_mm_0", (Kind.CONVERSION, None)),
        ("triton_red_fused_convolution_mean_1", (Kind.OTHER, None)),
        ("void cublasLt::splitKreduce_kernel<32, 16>", (Kind.OTHER, None)),
        ("cutlass_80_tensorop_i16832gemm_s8_128x64", (Kind.LINEAR, "int8")),
        ("sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n", (Kind.LINEAR, "float8")),
        ("cutlass_80_wmma_tensorop_s161616gemm_f16_16x16", (Kind.LINEAR, "float16")),
        ("ampere_sgemm_32x32", (Kind.LINEAR, "float32")),
        ("cutlass_80_tensorop_s1688gemm_128x64", (Kind.LINEAR, "tf32")),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32", (Kind.CONVOLUTION, "tf32")),
        ("triton_tem_fused_mm_3", (Kind.LINEAR, None)),
    ],
)
def test_kernels_of_packages_are_known_by_their_names(name: str, expected: Any) -> None:
    (found,) = torch_profile.parsed([kernel(name, 5, 77)], {})
    assert (found.kind, found.precision) == expected


@pytest.mark.parametrize(
    ("asked", "executed", "share"),
    [
        ("tf32", "tf32", 1.0),
        ("tf32", "float32", None),  # operators do not tell whether they round
        ("float32", "tf32", 1.0),  # as PyTorch does by default
        ("bfloat16", "tf32", 0.0),
    ],
)
def test_rounding_to_tf32_is_told_by_kernels_alone(
    asked: str, executed: str, share: float | None
) -> None:
    product = Operation(name="a", kind=Kind.LINEAR, precision=executed, multiply_adds=5)
    assert Execution.of([product], Encoding(dtype=asked)).share == share


def test_what_an_eight_bit_layer_does_beside_its_product_is_conversion() -> None:
    shapes = {"Input Dims": [[6, 4], [4, 2]], "Input type": ["signed char", "signed char"]}
    trace = [
        scope("layer: dense", 0, 20),
        scope("aten::div", 1, 3, 1),
        scope("aten::_int_mm", 5, 10, 2, **shapes),
    ]
    kinds = [(o.kind, o.precision) for o in torch_profile.parsed(trace, {})]
    assert kinds == [(Kind.CONVERSION, None), (Kind.LINEAR, "int8")]


def test_layers_of_a_module_are_named_and_counted() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.ConvTranspose2d(6, 4, 2)).eval()
    inputs = torch.randn(1, 2, 8, 8)
    found = torch_profile.operations(lambda: model(inputs), model, torch.device("cpu"))
    assert found is not None
    counts = {o.name: (o.kind, o.multiply_adds) for o in found if o.multiply_adds}
    assert counts == {
        "0": (Kind.CONVOLUTION, 6 * 36 * 9),
        "1": (Kind.CONVOLUTION, 6 * 36 * 4 * 4),
    }
    assert not model[0]._forward_hooks


def test_where_kernels_are_not_seen_operations_have_no_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace = torch_profile._trace
    monkeypatch.setattr(torch_profile, "_trace", lambda run, _: trace(run, torch.device("cpu")))
    model, inputs = nn.Linear(4, 2).eval(), torch.randn(3, 4)
    blind = torch.device("cuda")
    found = torch_profile.operations(lambda: model(inputs), model, blind)
    assert found is not None
    assert [(o.precision, o.multiply_adds, o.seconds) for o in found] == [("float32", 24, None)]
    assert torch_profile.operations(lambda: model(inputs), None, blind) is None


CODE = """
AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu__qconv_pointwise_tensor(buf6, x));
cpp_fused_mean_0(buf1);
AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu__linear_pointwise(buf16, y));
"""


def test_inductors_generated_calls_are_matched_with_the_traced_products() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(216, 5)).eval()
    program = torch.export.export(model, (torch.randn(1, 2, 8, 8),))
    found = products.operations(products.executed(program, CODE, "float32"))
    assert found is not None
    assert [(o.kind, o.precision, o.multiply_adds) for o in found] == [
        (Kind.CONVOLUTION, "int8", 6 * 36 * 18),
        (Kind.LINEAR, "float32", 1080),
    ]
    assert all(isinstance(o, Operation) for o in found)
    assert products.executed(program, CODE.replace("_linear_", "_other_"), "float32") is None
