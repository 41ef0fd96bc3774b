"""What bitsandbytes allocates out of sight is what its own code allocates where that is looked at."""

import pytest
import torch
from bitsandbytes.autograd._functions import MatMul8bitLt
from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn

from meft_runner.memory import TrackedMeter, tensor_bytes
from meft_runner.memory.quantised import int8_product, tensors_beside

ROWS, WIDTH, OUT = 24, 256, 512


def quantised(kind, **kwargs):
    layer = kind(WIDTH, OUT, **kwargs)
    layer.load_state_dict(nn.Linear(WIDTH, OUT).state_dict())
    return layer.to("cpu")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_in_nf4_makes_the_matrix_anew(dtype, nested):
    layer = quantised(Linear4bit, compute_dtype=dtype, quant_type="nf4", compress_statistics=nested)
    x, bias, state = torch.randn(ROWS, WIDTH, dtype=dtype), layer.bias.to(dtype), layer.weight.quant_state
    absmax, own = state.absmax, {}
    if nested:
        own = {"absmax_8bit": absmax, "absmax_code": state.state2.code, "absmax_offset": state.offset}
        absmax = state.state2.absmax
    arguments = (x, layer.weight.data.view(-1, 1), state.shape, absmax, state.blocksize, state.quant_type)
    peaks = []
    for product in (torch.ops.bitsandbytes.gemm_4bit.default, _gemm_4bit_default_impl):
        with TrackedMeter() as meter:
            meter.follow([*arguments[:2], absmax, bias, *own.values()])
            before = meter.live_bytes()
            product(*arguments, bias, **own)
            peaks.append(meter.peak_bytes() - before)
    assert peaks[0] > OUT * WIDTH * x.element_size()
    assert peaks[0] - peaks[1] == (4 * OUT * WIDTH // 64 if nested else 0)  # differences that a GPU keeps longer


def test_scales_are_found_wherever_they_are():
    packed, bytes_ = quantised(Linear4bit, quant_type="nf4"), quantised(Linear8bitLt, has_fp16_weights=False)
    assert sorted(name for _, name in tensors_beside(packed)) == ["absmax", "absmax", "code", "code", "offset"]
    before = tensor_bytes(tensor for _, tensor in tensors_beside(bytes_).values())
    bytes_(torch.randn(ROWS, WIDTH))  # the first call moves them
    assert before == tensor_bytes(tensor for _, tensor in tensors_beside(bytes_).values()) == OUT * WIDTH + 4 * OUT
    assert tensors_beside(nn.Linear(2, 2)) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_in_int8_keeps_what_one_on_a_gpu_keeps(dtype):
    layer = quantised(Linear8bitLt, has_fp16_weights=False, threshold=6.0)
    layer.init_8bit_state()
    kept, gradients = [], []
    for product in (MatMul8bitLt.apply, lambda x, *others: int8_product(x, *others[:-1], state=others[-1])):
        x = torch.rand(2, ROWS // 2, WIDTH, dtype=dtype, requires_grad=True)  # without outliers
        with TrackedMeter() as meter:
            meter.follow([x, layer.state.CB, layer.state.SCB])
            before = meter.live_bytes()
            result = product(2 * x, layer.weight, None, None, layer.state)
            kept.append(meter.live_bytes() - before)
            result.sum().backward()
        gradients.append((x.grad.shape, x.grad.dtype, result.shape, result.dtype))
    assert kept[0] == kept[1]
    assert gradients[0] == gradients[1]
