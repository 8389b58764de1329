"""A linear layer whose weights oneDNN has laid out once: what torch.compile makes of nn.Linear when it freezes a model on the CPU."""
import torch


class PackedLinear:
    def __init__(self, weight, rows=None):
        """weight: [out, in]. rows: the number of rows expected, for which the layout is chosen; any number may come."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)

    def __call__(self, x):
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
