"""Loading a model: its configuration, and its weights under the head that a task needs."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from meft_runner.backbones import FAMILIES, task_head
from meft_runner.backbones.reading import reading
from meft_runner.backbones.sources import check_model_type, fetch_weights, refused, weight_files
from meft_runner.backbones.weights import held_dtype, is_quantised, quantisation, settle
from meft_runner.config import Attention, BackboneSettings, Head, Precision, WeightForm
from meft_runner.errors import UserError

_FLOATS = {"F64", "F32", "F16", "BF16", torch.float64, torch.float32, torch.float16, torch.bfloat16}
_UNUSED = ("pooler", "mask_token", "position_ids", "token_type_ids", "version")  # that a model may do without
_CHANCES = ("dropout", "dropout_prob", "layerdrop")  # at the end of a name
_ACTIVATIONS = ("_act", "activation_function")
_PLAIN = {  # what a model gives back and in which form, whatever its config.json says
    "return_dict": True,
    "output_attentions": False,
    "output_hidden_states": False,
    "chunk_size_feed_forward": 0,
}


def load_config(backbone: BackboneSettings, source: str) -> PreTrainedConfig:
    """Loads the model's configuration.

    Raises:
        UserError: it cannot be read, is of another architecture, its numbers do not fit together, or its attention
            is not to be had in the form that is asked for.
    """
    with reading(backbone, source, "configuration"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    check_model_type(backbone, source, config.to_dict())
    if backbone.attention is Attention.sdpa and not FAMILIES[config.model_type].fused_attention:
        raise UserError(
            f"backbone.attention=sdpa: no fused kernel computes the attention of {config.model_type}. Take eager."
        )
    for name, value in _PLAIN.items():
        setattr(config, name, value)
    _check_config(backbone, source, config)
    return config


def load_model(
    backbone: BackboneSettings, source: str, head: Head, labels: int, precision: Precision = Precision.fp32
) -> PreTrainedModel:
    """Loads the weights, in the form that the settings say, under the head that a task needs.

    Args:
        backbone: the backbone's settings.
        source: what `find_source` returned.
        head: what the model is to do.
        labels: number of classes; 1 for regression; not used where the head classifies nothing.
        precision: that of training, in which weights of another form than fp32 are held where they are not quantised.

    Raises:
        UserError: the weights cannot be reached or read, or are not this model's.
    """
    fetch_weights(backbone, source)
    config = load_config(backbone, source)
    pads_with_a_word = head is not Head.image and getattr(config, "pad_token_id", None) is None
    _set_head(backbone, source, config, head, labels)
    dtype = held_dtype(backbone.weights, precision)
    quantised = quantisation(backbone.weights, dtype)
    with reading(backbone, source, "weights"):
        _check_files(backbone, source)
        model, report = (
            FAMILIES[config.model_type]
            .heads[head]
            .from_pretrained(
                source,
                config=config,
                attn_implementation=backbone.attention.name,
                dtype=dtype,
                **({} if quantised is None else {"quantization_config": quantised}),
                weights_only=True,  # of a .bin file, which older repositories have in place of safetensors
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # the head of another task; anything else is refused below
                output_loading_info=True,
            )
        )
    _check_complete(backbone, source, model, report)
    _check_values(backbone, source, model.named_parameters())
    if pads_with_a_word:
        model.get_input_embeddings().padding_idx = None  # that word's vector trains like any other
    settle(model)
    return model


def _set_head(backbone: BackboneSettings, source: str, config: PreTrainedConfig, head: Head, labels: int) -> None:
    """Sets what a head needs of a configuration.

    Raises:
        UserError: the model does not read texts as the head needs it.
    """
    if head is Head.lm and getattr(config, "is_causal", True) is False:
        complaint = "config.json has is_causal=false; what reads the tokens that follow does not learn to write them"
        raise refused(backbone, source, complaint, "Give a causal model, or take a task that classifies.")
    if head is not Head.image:
        config.use_cache = False  # keys and values are kept for generation only
        config.pad_token_id = padding_id(config)
    if head in (Head.classification, Head.image):
        config.num_labels = labels
        config.problem_type = "regression" if labels == 1 else "single_label_classification"


def padding_id(config: PreTrainedConfig) -> int:
    """Returns the token that fills rows up; token 0 where a model has none, since padding is masked anyway."""
    token = getattr(config, "pad_token_id", None)
    return 0 if token is None else token


def _check_config(backbone: BackboneSettings, source: str, config: PreTrainedConfig) -> None:
    """Makes sure of what transformers does not look at, or looks at only when a row is computed.

    Raises:
        UserError: the weights are quantised, or a number is outside its range.
    """
    if getattr(config, "quantization_config", None) is not None:
        complaint = "config.json has a quantization_config, and quantised weights cannot be trained here"
        fix = "Give the model's weights as they were before, and backbone.weights=nf4 to quantise them."
        raise refused(backbone, source, complaint, fix)
    sizes = {name: getattr(config, name, None) for name in (*backbone.config, "max_position_embeddings")}
    for name, size in sizes.items():
        if type(size) is int and size < 1:
            raise refused(backbone, source, f"config.json has {name}={size}, expected 1 or more")
    for name, value in config.to_dict().items():
        if name.endswith(_CHANCES) and isinstance(value, int | float) and not 0 <= value <= 1:
            raise refused(backbone, source, f"config.json has {name}={value}, expected 0 to 1")
        if name.endswith(_ACTIVATIONS) and isinstance(value, str) and value not in ACT2FN:
            raise refused(backbone, source, f"config.json has {name}={value}, which transformers does not know")
        if name == "pooler_hidden_size" and value != config.hidden_size:
            raise refused(backbone, source, f"config.json has {name}={value}, expected {config.hidden_size}")
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary is not None and not 0 <= padding_id(config) < vocabulary:
        complaint = f"config.json has pad_token_id={padding_id(config)}, expected 0 to {vocabulary - 1}"
        raise refused(backbone, source, complaint)
    with reading(backbone, source, "configuration"):
        readable = FAMILIES[config.model_type].positions(config)
    if readable < 1:
        raise refused(backbone, source, "its config.json leaves no position that can be read")


def _check_files(backbone: BackboneSettings, source: str) -> None:
    """Makes sure that the files of the weights are there and hold floating-point numbers.

    Raises:
        UserError: one is missing or holds something else.
        Exception: what the readers of the files say of one that is damaged.
    """
    for file in weight_files(Path(source)):
        if not file.is_file():
            raise refused(backbone, source, f"{file.name} is missing")
        for name, kind in _stored_types(file).items():
            if name.endswith((".weight", ".bias")) and kind not in _FLOATS:
                complaint = f"{file.name} holds {name} as {kind}, expected floating-point numbers"
                raise refused(backbone, source, complaint, "Give the model's weights before they were quantised.")
        if is_quantised(backbone.weights):  # which leaves no trace of values that are no numbers
            _check_values(backbone, source, _stored_tensors(file))


def _stored_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors in a file by name, each read when its turn comes."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  no mapping
                yield name, tensors.get_tensor(name)
    else:
        yield from torch.load(file, mmap=True, weights_only=True).items()


def _stored_types(file: Path) -> dict[str, object]:
    """Returns the type of each tensor in a file, which is not read for that."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118  no mapping
    try:
        content = torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # of whatever unpickling runs into; torch's advice is to run the code in the file
        raise ValueError(f"{file.name} is no file of tensors") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file.name} holds something else than named tensors")
    return {name: tensor.dtype for name, tensor in content.items()}


def _check_complete(backbone: BackboneSettings, source: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Makes sure that a file's weights and the model's are the same ones, but for the head and what stands before it.

    Raises:
        UserError: the model lacks some, or has no place for some.
    """
    own = f"Give the {model.config.model_type} model's own weights by backbone.path=DIR."
    new = (*task_head(model), f"{model.base_model_prefix}.pooler")
    wrong = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    wrong = sorted(name for name in wrong if not name.startswith(new))
    if wrong:
        complaint = f"weights are missing there or have another shape ({len(wrong)}, {wrong[0]} among them)"
        raise refused(backbone, source, complaint, f"Look at config.json, or g{own[1:]}")
    left = sorted(name for name in report["unexpected_keys"] if _belongs(model, name))
    if left:
        complaint = f"weights there have no place in a model of its config.json ({len(left)}, {left[0]} among them)"
        raise refused(backbone, source, complaint, f"Mend config.json, or g{own[1:]}")


def _belongs(model: PreTrainedModel, name: str) -> bool:
    """Tells whether a weight is of the base model: those of other heads, and what no model computes with, are not."""
    parts = name.removeprefix(f"{model.base_model_prefix}.").split(".")
    return parts[0] in dict(model.base_model.named_children()) and not set(parts) & set(_UNUSED)


def _check_values(backbone: BackboneSettings, source: str, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Makes sure that all weights are numbers.

    Raises:
        UserError: some are not.
    """
    for name, weight in weights:
        # A sum costs no memory; it can overflow where all are numbers, so that they are looked at one by one then.
        if not weight.sum().isfinite() and not weight.isfinite().all():
            complaint = f"its weights hold values that are no numbers (NaN or infinite), in {name}"
            as_fp16 = "Values above 65,504 are none in fp16: take backbone.weights=bf16, or choose other weights."
            raise refused(backbone, source, complaint, as_fp16 if backbone.weights is WeightForm.fp16 else None)
