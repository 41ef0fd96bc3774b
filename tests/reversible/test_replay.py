import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from meft_runner.reversible.replay import repeatable_attention
from tests.helpers.models import batch, meft_settings, prepared


@pytest.mark.parametrize("reversal", ["exact", "float", "stored"])
def test_a_layer_is_computed_again_with_the_kernels_that_it_was_computed_with(reversal, monkeypatch):
    allowed, attention = [], F.scaled_dot_product_attention

    def seen(*args, **kwargs):
        allowed.append((torch.is_grad_enabled(), torch.backends.cuda.cudnn_sdp_enabled()))
        return attention(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", seen)
    model = prepared(meft_settings("meft1", reversal), dropout=0.0)
    model(**batch()).loss.backward()
    passes = {True} if reversal == "stored" else {False, True}  # without a graph first, then with one
    assert set(allowed) == {(with_graph, False) for with_graph in passes}
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_the_only_kernel_that_is_allowed_stays():
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION), repeatable_attention():
        assert torch.backends.cuda.cudnn_sdp_enabled()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), repeatable_attention():
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with pytest.raises(ValueError, match="stop"), repeatable_attention():
        raise ValueError("stop")
    assert torch.backends.cuda.cudnn_sdp_enabled()
