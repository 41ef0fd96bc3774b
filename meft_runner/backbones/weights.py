"""The form in which a model's frozen weights are held: float32, half precision, or quantised by bitsandbytes.

What stays floating point beside quantised matrices (embeddings, LayerNorms, biases, a language model's head) is held
in the precision of the run, in which the matrices are computed with too. What trains is float32 in every form.
"""

import importlib.util
import math
from importlib import import_module
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from meft_runner.backbones.family import TASK_HEADS, task_head
from meft_runner.config import Precision, WeightForm
from meft_runner.errors import UserError

_DTYPES = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}
_QUANTISED = (WeightForm.nf4, WeightForm.int8)
# A language model's head is a matrix of embeddings; a pooler may have to be drawn anew, which bytes cannot be.
_LEFT_AS_THEY_ARE = rf"(.*\.)?({'|'.join((*TASK_HEADS, 'lm_head', 'pooler'))})"


def is_quantised(form: WeightForm) -> bool:
    """Tells whether a form is one of bitsandbytes."""
    return form in _QUANTISED


def held_dtype(form: WeightForm, precision: Precision) -> torch.dtype:
    """Returns the dtype of the frozen weights that are not quantised: the run's, but for fp32 under autocast."""
    return torch.float32 if form is WeightForm.fp32 else _DTYPES[precision]


def check_installed(form: WeightForm) -> None:
    """Makes sure that there is what a form needs.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if is_quantised(form) and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"backbone.weights={form.name}: needs bitsandbytes, which is not installed. "
            "Run pip install 'meft-runner[quantised]', or take "
            "backbone.weights=bf16 with training.precision=bf16."
        )


def quantisation(form: WeightForm, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Returns how bitsandbytes is to quantise a model, None where it is not to.

    NF4 (arXiv 2305.14314) is that of QLoRA: blocks of 64 weights, with scales of 8 bits (double quantisation), 4.13
    bits a weight. int8 is LLM.int8() (arXiv 2208.07339), inputs above 6 kept apart.

    Args:
        form: of the weights.
        dtype: in which NF4 matrices are computed with.
    """
    if form is WeightForm.nf4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=[_LEFT_AS_THEY_ARE],
        )
    if form is WeightForm.int8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=[_LEFT_AS_THEY_ARE])
    return None


def quantise(model: PreTrainedModel, form: WeightForm, dtype: torch.dtype) -> None:
    """Quantises a model of floating-point weights, in place, as `from_pretrained` does while it reads them.

    Args:
        model: on any device; on meta, what comes out has the right sizes.
        form: of the weights; a form without quantisation changes nothing.
        dtype: that of its weights.
    """
    config = quantisation(form, dtype)
    if config is None:
        return
    with torch.device("cpu"):  # a table that is made once and kept, and cannot be made on meta
        import_module("bitsandbytes.functional").quantize_blockwise(torch.zeros(1))
    before = dict(model.named_modules())
    replace_with_bnb_linear(model, config.llm_int8_skip_modules, config)
    for name, module in model.named_modules():
        if (old := before.get(name)) is module:
            continue
        assert isinstance(old, nn.Linear)
        weight: Any = module.weight
        own = {key: value for key, value in vars(weight).items() if key not in ("CB", "SCB")}
        quantised: Any = type(weight)(old.weight.data, requires_grad=False, **own)
        module.weight = quantised._quantize(old.weight.device)  # `to` leaves tensors on meta as they are
        module.bias = old.bias
    attributes: Any = model  # of which peft asks
    attributes.is_loaded_in_4bit, attributes.is_loaded_in_8bit = form is WeightForm.nf4, form is WeightForm.int8


def move(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves a model, in place, with what stands beside matrices in int8: `to` leaves both where they were quantised."""
    model.to(device)
    for module in model.modules():
        weight: Any = vars(module)["_parameters"].get("weight")
        if getattr(weight, "SCB", None) is not None:
            weight.CB, weight.SCB = weight.data, weight.SCB.to(device)
    return model


def settle(model: PreTrainedModel) -> None:
    """Makes a model whose weights are in their form ready to be trained beside them, in place."""
    for name in task_head(model):
        model.get_submodule(name).float()
    attributes: Any
    for attributes in model.modules():
        if hasattr(attributes, "support_avx512bf16_for_cpu"):
            # Evaluation would repack such a CPU's weights for a kernel of other rounding and without a gradient.
            attributes.support_avx512bf16_for_cpu = False
    attributes = model
    attributes.is_quantized = False  # the Trainer knows of no adapters but peft's, and would refuse to train


def count(parameter: nn.Parameter) -> int:
    """Returns how many numbers a parameter stands for; NF4 packs two of them into a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def own_scales(module: nn.Module) -> None:
    """Gives a copied NF4 layer the scales that came with its weight, in place; it has a second copy of them."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    if state is not None:
        copied: Any = module
        copied.quant_state = state
        copied.weight.module = module
