"""The equations of reversible couplings over original Hugging Face layers, for ordinary autograd."""

from torch import nn


class NaiveDelay(nn.Module):
    """x1, x2 <- x2, scale * x1 + mu * F(x2), with F a layer as the model's own loop calls it; returns x2 as F does."""

    def __init__(self, layers, scale, mu):
        super().__init__()
        self.layers, self.scale, self.mu = layers, scale, mu

    def forward(self, hidden, *args, **kwargs):
        x1 = x2 = hidden
        for layer in self.layers:
            output = layer(x2, *args, **kwargs)
            several = isinstance(output, tuple)
            x1, x2 = x2, self.scale * x1 + self.mu * (output[0] if several else output)
        return (x2, *output[1:]) if several else x2


def delay_by_hand(model, family, scale, mu):
    """Runs a model's layers in a delay coupling, in place, each list of layers one NaiveDelay."""
    for view in family.views:
        layers = model.base_model.get_submodule(view.path)
        model.base_model.set_submodule(view.path, nn.ModuleList([NaiveDelay(layers, scale, mu)]))
