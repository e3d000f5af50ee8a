"""Checkpoints of transformers as tasks: kinds of outputs, labels, faults, and a whole search."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from _texts import checkpoint, texts

import search
from objectives.tasks.hf import Hf
from search.checks import check
from search.errors import BadExperiment, BadTask
from search.experiment import Experiment, default_for_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained checkpoint and a table of texts."""
    folder = tmp_path_factory.mktemp("texts")
    checkpoint(folder / "bert", id2label={0: "poor", 1: "fine"}, label2id={"poor": 0, "fine": 1})
    texts(60, seed=1).to_csv(folder / "texts.csv", index=False)
    return folder


def test_a_checkpoint_and_a_table_are_a_checked_experiment(trained: Path) -> None:
    experiment = default_for_model(f"hf:{trained / 'bert'}", trained / "texts.csv")
    assert experiment.name == "hf-bert"
    content = json.loads(json.dumps(experiment.to_json()))
    again = Experiment.of(content, experiment.folder)
    assert (again.task, again.key) == (experiment.task, experiment.key)
    space = {"deploy.runtime": {"name": ["null", "eager"]}}
    small = Experiment(task=again.task, space=space, objectives={"accuracy": {}, "size": {}})
    lines = check.check(small)
    assert lines[0].startswith("task      hf:bert")
    assert any("score 1 of 12 samples" in line for line in lines)
    assert any("is divided into 60 % train" in line for line in lines)
    assert any("padded to 16 tokens" in line for line in lines)
    assert lines[-1] == "ok"


def test_names_of_labels_are_those_of_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    table = texts(30)
    named = table.assign(label=table["label"].map({0: "poor", 1: "fine"}))
    named.to_json(tmp_path / "named.jsonl", orient="records", lines=True)
    table.to_parquet(tmp_path / "numbers.parquet")
    tasks = [
        Hf(folder=trained / "bert", data=tmp_path / name)
        for name in ("named.jsonl", "numbers.parquet")
    ]
    (inputs, targets), (others, numbers) = (next(t.batches("validation", 8)) for t in tasks)
    assert targets.dtype is torch.int64
    assert torch.equal(targets, numbers)
    assert inputs["input_ids"].shape == (6, 16)
    assert all(torch.equal(inputs[name], others[name]) for name in inputs)
    named.assign(label="great").to_json(tmp_path / "else.jsonl", orient="records", lines=True)
    task = Hf(folder=trained / "bert", data=tmp_path / "else.jsonl")
    with pytest.raises(ValueError, match=r"the label 'great'; .* 0 to 1, or poor, fine"):
        next(task.batches("train", 8))


@pytest.mark.parametrize(
    ("problem", "labels", "best"),
    [
        ("regression", [0.5, 2.0], 1.0),
        ("multi_label_classification", [["fine"], ["poor", 1]], 1.0),
        ("single_label_classification", ["fine", "poor"], 1.0),
    ],
)
def test_loss_and_score_follow_from_the_kind_of_problem(
    tmp_path: Path, problem: str, labels: list[object], best: float
) -> None:
    count = 1 if problem == "regression" else 2
    names = {} if count == 1 else {"id2label": {0: "poor", 1: "fine"}}
    checkpoint(tmp_path / "bert", 0, num_labels=count, problem_type=problem, **names)
    data = pd.DataFrame({"text": ["good", "bad"] * 10, "label": labels * 10})
    data.to_json(tmp_path / "texts.jsonl", orient="records", lines=True)
    task = Hf(folder=tmp_path / "bert", data=tmp_path / "texts.jsonl")
    inputs, targets = next(task.batches("validation", 8))
    outputs = task.model()(**inputs)
    assert float(task.loss(outputs, targets).detach()) > 0
    exact = targets.float()
    if problem == "single_label_classification":
        exact = torch.nn.functional.one_hot(targets, 2).float()
    elif problem == "multi_label_classification":
        exact = targets * 2 - 1
    assert task.score({"logits": exact.reshape(len(targets), -1)}, targets) == best
    assert task.score({"logits": -exact.reshape(len(targets), -1)}, targets) < best


def test_faults_are_one_line(trained: Path, tmp_path: Path) -> None:
    def fault(model: str, data: Path) -> str:
        with pytest.raises((BadExperiment, BadTask)) as error:
            check.inspect_model(default_for_model(model, data))
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    bert, table = f"hf:{trained / 'bert'}", trained / "texts.csv"
    assert "has no config.json" in fault(f"hf:{tmp_path}", table)
    assert "no file or folder of texts" in fault(bert, tmp_path / "absent.csv")
    (tmp_path / "untrained").mkdir()
    for file in (trained / "bert").iterdir():
        (tmp_path / "untrained" / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "untrained" / "model.safetensors"
    tensors = search_tensors(weights)
    torch_safe(weights, {n: t for n, t in tensors.items() if "classifier" not in n})
    assert "no weights of classifier.bias" in fault(f"hf:{tmp_path / 'untrained'}", table)
    (tmp_path / "columns.csv").write_text("text,stars\ngood,1\n")
    assert 'label = "NAME" in the table [task.hf]' in fault(bert, tmp_path / "columns.csv")
    texts(40).assign(label=1).to_csv(tmp_path / "alike.csv", index=False)
    assert "validation split of" in fault(bert, tmp_path / "alike.csv")
    with pytest.raises(BadExperiment, match="needs --data PATH"):
        default_for_model(bert)
    with pytest.raises(BadExperiment, match="takes no --checkpoint"):
        default_for_model(bert, table, tmp_path)
    with pytest.raises(BadExperiment, match="named with its library"):
        default_for_model("bert", table)
    with pytest.raises(BadExperiment, match="takes no --model"):
        default_for_model("digits:x", table)


def search_tensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor.clone() for name, tensor in load_file(file).items()}


def torch_safe(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, file, metadata={"format": "pt"})


def test_it_has_one_model_and_no_batches_besides_the_experiment(trained: Path) -> None:
    """The task is plain data: a copy in another process gives the same model and batches."""
    task = Hf(folder=trained / "bert", data=trained / "texts.csv")
    copy = dataclasses.replace(task)
    one, other = (t.model().state_dict() for t in (task, copy))
    assert all(torch.equal(one[name], other[name]) for name in one)
    (a, _), (b, _) = (next(t.batches("test", 4)) for t in (task, copy))
    assert torch.equal(a["input_ids"], b["input_ids"])


@pytest.mark.slow
def test_a_search_runs_resumes_and_verifies(trained: Path, tmp_path: Path) -> None:
    experiment = Experiment(
        task={"hf": {"folder": str(trained / "bert"), "data": str(trained / "texts.csv")}},
        space={
            "prune.channels": {"ratio": [0.0, 0.5]},
            "distill.logits": {"steps": [0, 4]},
            "deploy.runtime": {"name": ["eager", "onnxruntime"]},
        },
        objectives={"accuracy": {}, "size": {}},
        trials=3,
    )
    result = search.run(experiment, out=tmp_path / "run", quiet=True)
    assert result.baseline.measurements["accuracy"].value == 1
    again = search.resume(tmp_path / "run", trials=4, quiet=True)
    assert len(again.records) >= 4
    assert all(member.equal for member in search.verify(tmp_path / "run", quiet=True))
