"""Text classifiers and regressors of transformers, in a local folder, on a table of texts."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from objectives.datasets import Rows, orders, require_classes, text_splits
from objectives.supervised import Kind, loss_of, score_of
from spaces import Split, Task, first_line

TOKENS = 128
"""Tokens of a text, unless the model takes fewer or the experiment says otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hf(Task):
    """A fine-tuned checkpoint of transformers with its tokenizer, and texts with labels.

    The kind of its outputs follows from `problem_type` of its configuration. Nothing is downloaded.
    Raises ValueError if the folder has no such checkpoint.
    """

    reference = "folder"
    packages = ("transformers", "tokenizers")

    folder: Path
    """Folder that `save_pretrained` of the model and of the tokenizer wrote."""
    data: Path
    """A table, or a folder of tables named by split: see `objectives.datasets.tables`."""
    text: str = ""
    """Column of texts; empty for one that is named text or sentence, or the like."""
    pair: str = ""
    """Column of a second text; empty if there is none."""
    label: str = ""
    """Column of labels; empty for one that is named label or labels, or the like."""
    max_length: int = 0
    """Tokens to which every text is padded or cut; 0 for 128, or what the model takes if less."""

    def __post_init__(self) -> None:
        if not (self.folder / "config.json").is_file():
            raise ValueError(
                f"{self.folder} is no checkpoint of transformers, it has no config.json: write it "
                "with save_pretrained() of the model and of the tokenizer"
            )
        if self.max_length < 0:
            raise ValueError(f"max_length must be 0 or more tokens, got {self.max_length}")

    def model(self) -> nn.Module:
        """Return the model in evaluation mode; raises ValueError if its weights are incomplete."""
        with _silent():
            try:
                loaded, report = AutoModelForSequenceClassification.from_pretrained(
                    self.folder,
                    dtype=torch.float32,
                    local_files_only=True,
                    output_loading_info=True,
                )
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise ValueError(
                    f"{self.folder} cannot be loaded as a sequence classifier: {first_line(error)}"
                ) from error
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"{self.folder} has no weights of {missing[0]}: it was not trained to classify; "
                "fine-tune it first"
            )
        loaded.config.use_cache = False  # a cache of keys and values is no output to be kept
        network: nn.Module = loaded.eval()
        return network

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Yield the tokenizer's tensors (batch, tokens) and labels (batch, ...).

        Raises ValueError for labels that are not the model's.
        """
        columns, labels = _encoded(self, split)
        for index in orders(len(labels), split, batch_size):
            yield {name: column[index] for name, column in columns.items()}, labels[index]

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the loss of the model's kind; see `objectives.supervised`."""
        return loss_of(_kind(self.folder), outputs["logits"], targets)

    def score(self, outputs: Any, targets: Tensor) -> float:
        """Return the score of the model's kind; see `objectives.supervised`."""
        return score_of(_kind(self.folder), outputs["logits"], targets)

    def notices(self) -> tuple[str, ...]:
        """Return how the texts were divided, and how many are cut."""
        splits, divided = self._splits()
        rows, tokens = splits["validation"], self._tokens()
        counts = [len(ids) for ids in self._tokenized(rows)["input_ids"]]
        cut = sum(count > tokens for count in counts)
        padded = f"texts are padded to {tokens} tokens: set max_length if yours are shorter"
        share = f"{cut / len(counts):.1%} of the validation texts have more and are cut"
        return tuple(filter(None, (divided, f"{padded}; {share}" if cut else padded)))

    def describe(self) -> dict[str, str]:
        """Return folder, data and preprocessing."""
        return {
            "name": f"hf:{self.folder.name}",
            "folder": str(self.folder),
            "data": str(self.data),
            "batches": f"texts through the tokenizer of {self.folder}, padded to {self._tokens()} "
            "tokens",
        }

    def _splits(self) -> tuple[Mapping[Split, Rows], str]:
        return text_splits(self.data, self.text, self.label, self.pair)

    def _tokens(self) -> int:
        """Return the number of tokens of a text."""
        longest = int(_tokenizer(self.folder).model_max_length)
        return min(self.max_length or TOKENS, longest)

    def _tokenized(self, rows: Rows, **settings: Any) -> Any:
        tokenizer = _tokenizer(self.folder)
        with _silent():
            pairs = None if rows.pairs is None else list(rows.pairs)
            return tokenizer(list(rows.texts), pairs, **settings)


@functools.lru_cache(maxsize=8)  # tokenizing takes longer than all else that a batch needs
def _encoded(task: Hf, split: Split) -> tuple[dict[str, Tensor], Tensor]:
    """Return the tensors (samples, tokens) of a split, and its labels (samples, ...)."""
    rows = task._splits()[0][split]
    settings = {"padding": "max_length", "truncation": True, "max_length": task._tokens()}
    columns = task._tokenized(rows, return_tensors="pt", **settings)
    labels = _labels(task.folder, task.data, rows.labels)
    if _kind(task.folder) is Kind.CLASSES:
        require_classes(split, labels.tolist(), str(task.data))
    return dict(columns), labels


def _labels(folder: Path, data: Path, labels: Sequence[Any]) -> Tensor:
    """Return labels as a model's kind asks for them; raises ValueError for one it does not have."""
    kind, config = _kind(folder), _config(folder)
    if kind is Kind.NUMBERS:
        if wrong := next((v for v in labels if isinstance(v, str)), None):
            raise ValueError(f"the label {wrong!r} of {data} is no number, which {folder} predicts")
        return torch.tensor(labels, dtype=torch.float32)
    names = config.id2label or {v: k for k, v in (config.label2id or {}).items()}
    numbers = {str(name): int(number) for number, name in names.items()}
    if kind is Kind.CLASSES:
        return torch.tensor([_number(folder, data, v, numbers) for v in labels])
    targets = torch.zeros(len(labels), len(numbers))
    for row, several in zip(targets, labels, strict=True):
        values = several.tolist() if isinstance(several, np.ndarray) else several
        if not isinstance(values, list):
            raise ValueError(
                f"{data} has the label {several!r}; {folder} predicts several labels of a text: "
                "give each row a list of them, in JSON lines or parquet"
            )
        for value in values:
            row[_number(folder, data, value, numbers)] = 1
    return targets


def _number(folder: Path, data: Path, label: Any, numbers: Mapping[str, int]) -> int:
    """Return the number of a label that is given by name or number."""
    if isinstance(label, str) and label in numbers:
        return numbers[label]
    if isinstance(label, int | float) and label in range(len(numbers)):
        return int(label)
    raise ValueError(
        f"{data} has the label {label!r}; {folder} has {len(numbers)} classes: 0 to "
        f"{len(numbers) - 1}, or {', '.join(list(numbers)[:5])}; give these, or put label2id into "
        "its config.json"
    )


def _kind(folder: Path) -> Kind:
    config = _config(folder)
    kinds = {"regression": Kind.NUMBERS, "multi_label_classification": Kind.LABELS}
    if config.problem_type is None and config.num_labels == 1:
        return Kind.NUMBERS
    return kinds.get(config.problem_type, Kind.CLASSES)


@functools.cache
def _config(folder: Path) -> Any:
    with _silent():
        try:
            return AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{folder} is no checkpoint of transformers: {first_line(error)}"
            ) from error


@functools.cache
def _tokenizer(folder: Path) -> Any:
    with _silent():
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{folder} has no tokenizer that can be loaded: {first_line(error)}; write it with "
                "tokenizer.save_pretrained()"
            ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let transformers print neither progress nor advice in the block."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
