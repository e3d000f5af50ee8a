"""A tiny checkpoint of transformers with its tokenizer, and texts that it was trained on."""

import random
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

WORDS = ["good", "bad", "film", "the", "a", "was", "very", "story"]


def texts(count: int, seed: int = 0) -> pd.DataFrame:
    """Return sentences that praise (label 1) or do not (label 0)."""
    draw = random.Random(seed)
    labels = [i % 2 for i in range(count)]
    words = [[draw.choice(WORDS[2:]) for _ in range(5)] + [WORDS[1 - y]] for y in labels]
    for sentence in words:
        draw.shuffle(sentence)
    return pd.DataFrame({"text": [" ".join(s) for s in words], "label": labels})


def checkpoint(folder: Path, steps: int = 40, **settings: Any) -> Path:
    """Write a tiny BERT with its tokenizer, trained for some steps; return its folder."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 16, "vocab_size": 10}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BertForSequenceClassification(BertConfig(**sizes, **settings))
        table = texts(64)
        inputs = tokenizer(table["text"].tolist(), padding=True, return_tensors="pt")
        optimiser = torch.optim.Adam(network.parameters(), 0.02)
        for _ in range(steps):
            logits = network(**inputs).logits
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(table["label"].tolist()))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.save_pretrained(folder)
    return folder
