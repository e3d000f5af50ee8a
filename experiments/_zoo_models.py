"""The zoo: public architectures with random weights, and a task that feeds them random data.

No weights are downloaded: torchvision and timm build their models by name, transformers from small
configurations. Libraries that are not installed are left out.
"""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Inputs, Split, Targets, Task
from spaces.modules import flatten

TORCHVISION = """
alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d densenet121 squeezenet1_1 mobilenet_v2
mobilenet_v3_small mnasnet1_0 shufflenet_v2_x1_0 efficientnet_b0 efficientnet_v2_s
regnet_y_400mf convnext_tiny googlenet inception_v3 vit_b_32 swin_t swin_v2_t maxvit_t
lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large fcn_resnet50
"""
TIMM = """
seresnet50 resnetv2_50 cspresnet50 dla34 res2net50_26w_4s hrnet_w18_small repvgg_a0
mobileone_s0 ghostnet_100 levit_128s mobilevit_xs mobilevitv2_050 efficientformer_l1
efficientformerv2_s0 coatnet_0_rw_224 tiny_vit_5m_224 deit_tiny_patch16_224
deit_small_patch16_224 deit3_small_patch16_224 cait_xxs24_224 xcit_nano_12_p16_224 pit_ti_224
poolformer_s12 convnextv2_atto edgenext_xx_small mixer_s32_224 resmlp_12_224 gmlp_ti16_224
mobilenetv4_conv_small fastvit_t8 repvit_m0_9 pvt_v2_b0 twins_svt_small crossvit_tiny_240
eva02_tiny_patch14_224 focalnet_tiny_srf starnet_s1 mambaout_femto inception_next_atto
eca_nfnet_l0 tf_efficientnet_lite0 visformer_tiny
"""

TOKENS, VOCABULARY = 32, 1000
_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
_ROTARY = _SMALL | {"num_key_value_heads": 2, "intermediate_size": 704}
_TWO_TOWERS = {
    "vocab_size": VOCABULARY,
    "d_model": 256,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 1024,
    "decoder_ffn_dim": 1024,
}
_CONFIGURED: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", _SMALL),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {"vocab_size": VOCABULARY, "dim": 256, "n_layers": 4, "n_heads": 4, "hidden_dim": 1024},
    ),
    "roberta": ("RobertaForSequenceClassification", _SMALL),
    "albert": ("AlbertForSequenceClassification", _SMALL),
    "electra": ("ElectraForSequenceClassification", _SMALL | {"embedding_size": 128}),
    "deberta_v2": (
        "DebertaV2ForSequenceClassification",
        _SMALL | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
    "modernbert": ("ModernBertForSequenceClassification", _SMALL | {"intermediate_size": 704}),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 256, "n_layer": 4, "n_head": 4},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", _SMALL),
    "opt": (
        "OPTForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "ffn_dim": 1024,
            "word_embed_proj_dim": 256,
        },
    ),
    "bloom": (
        "BloomForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 256, "n_layer": 4, "n_head": 4},
    ),
    "llama": ("LlamaForCausalLM", _ROTARY),
    "qwen2": ("Qwen2ForCausalLM", _ROTARY),
    "qwen3": ("Qwen3ForCausalLM", _ROTARY | {"head_dim": 64}),
    "gemma": ("GemmaForCausalLM", _ROTARY | {"head_dim": 64}),
    "phi": ("PhiForCausalLM", _SMALL),
    "mamba": (
        "MambaForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 128, "num_hidden_layers": 2},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "d_model": 256,
            "d_kv": 64,
            "d_ff": 1024,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 4,
        },
    ),
    "bart": ("BartForConditionalGeneration", _TWO_TOWERS),
}
"""Classes of transformers and the fields of their configurations."""
_DECODED = ("t5", "bart")
"""Models with an encoder and a decoder, which read the same tokens here."""

TRAINING, VALIDATION = 256, 32
"""Samples of the splits."""


def present() -> dict[str, bool]:
    """Return the libraries of the zoo and if they are installed."""
    libraries = ("torchvision", "timm", "transformers")
    return {name: importlib.util.find_spec(name) is not None for name in libraries}


def names() -> list[str]:
    """Return the architectures of all libraries, as LIBRARY:NAME."""
    listed = {
        "torchvision": TORCHVISION.split(),
        "timm": TIMM.split(),
        "transformers": list(_CONFIGURED),
    }
    return [f"{library}:{name}" for library, own in listed.items() for name in own]


class Zoo(Task):
    """An architecture with random weights, smooth random images or random tokens, and classes."""

    def __init__(self, address: str) -> None:
        self._library, self._name = address.split(":", 1)

    def model(self) -> nn.Module:
        """Return the model; always with the same weights."""
        torch.manual_seed(0)
        builders: dict[str, Callable[[str], nn.Module]] = {
            "torchvision": _torchvision,
            "timm": _timm,
            "transformers": _transformers,
        }
        return builders[self._library](self._name).eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Inputs, Targets]]:
        """Yield the same random batches at every call."""
        generator = torch.Generator().manual_seed(("train", "validation", "test").index(split))
        samples = TRAINING if split == "train" else VALIDATION
        for start in range(0, samples, batch_size):
            count = min(batch_size, samples - start)
            targets = torch.randint(0, 10, (count,), generator=generator)
            yield self._inputs(count, generator), targets

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        """Return the mean cross-entropy of the first output, all its values as classes."""
        first: Tensor = flatten(outputs)[0][0]
        return F.cross_entropy(first.flatten(1), targets % first[0].numel())

    def score(self, outputs: Any, targets: Targets) -> float:
        """Return the negated loss."""
        return -float(self.loss(outputs, targets))

    def describe(self) -> dict[str, str]:
        """Return the architecture's name."""
        return {"name": f"{self._library}:{self._name}"}

    def _inputs(self, count: int, generator: torch.Generator) -> Any:
        if self._library != "transformers":
            side = image_side(self._library, self._name)
            coarse = torch.randn(count, 3, side // 8, side // 8, generator=generator)
            return F.interpolate(coarse, (side, side), mode="bilinear")
        tokens = torch.randint(5, VOCABULARY, (count, TOKENS), generator=generator)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        return inputs | ({"decoder_input_ids": tokens} if self._name in _DECODED else {})


def image_side(library: str, name: str) -> int:
    """Return the side of the square images that an architecture is made for, in pixels."""
    if library == "torchvision":
        return 299 if name == "inception_v3" else 224
    import timm

    configuration = timm.get_pretrained_cfg(name)
    return int(configuration.input_size[-1]) if configuration else 224


def _torchvision(name: str) -> nn.Module:
    import torchvision

    segments = "lraspp" in name or "deeplab" in name or "fcn" in name
    without = {"weights": None} | ({"weights_backbone": None} if segments else {})
    if name in ("googlenet", "inception_v3"):
        without["init_weights"] = False
    network: nn.Module = torchvision.models.get_model(name, **without)
    return network


def _timm(name: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False)
    return network


def _transformers(name: str) -> nn.Module:
    import transformers

    kind, fields = _CONFIGURED[name]
    model_class = getattr(transformers, kind)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    network: nn.Module = model_class(model_class.config_class(**fields, **special))
    return network
