"""PixelCNN's cached form: the vertical stack once a row, the horizontal stack once a position.

The same weights and the same function as `pixelcnn.py`; what a full forward pass computes again
for every code is kept here in caches that the caller feeds back. These modules are what is
exported, and what the torch engine runs.

Shapes: N samples, W columns, C codes a position, p channels, L layers, K the codebook's size,
which also stands for "nothing there" as a code.

With a `dtype` of half precision embeddings, products and gates are in half; what goes in and comes
out, softmax and draw stay in the prior's own, float32.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.models.precision import in_dtype
from vqtrt.models.sample import draw
from vqtrt.priors.pixelcnn import PixelCNN, gate


class RowGraph(nn.Module):
    """From the row above to everything that a row's positions need of what is above them.

    A convolution over rows is a sum of products, one a row: as soon as a row is known, what it
    says to each of the rows below it is computed and kept, so that a new row costs one product
    over its own places, and no window is gathered twice.
    """

    def __init__(self, prior: PixelCNN, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.outer = next(prior.parameters()).dtype
        self.dtype = dtype or self.outer
        self.prior = in_dtype(prior, self.dtype)
        for index, layer in enumerate(prior.gated_layers()):
            # (2p, p, rows, k) to (k·p, 2p) a row: the places of a window lie flat, from the left.
            weight = layer.vertical.weight.detach().permute(2, 3, 1, 0).flatten(1, 2)
            for ahead in range(layer.rows):
                self._keep(f"vertical{index}_{ahead}", weight[layer.rows - 1 - ahead])
            link = layer.link.weight.detach()[:, :, 0, 0].T
            self._keep(f"link{index}", link)
            # The link also sees the vertical bias; here it is added to its product.
            bias = bias_of(layer.vertical) @ link + bias_of(layer.link) + bias_of(layer.horizontal)
            labels = layer.horizontal_label
            self._keep(f"bias{index}", bias if labels is None else bias + labels.weight.detach())
            if layer.residual is not None:
                labels, bias = layer.vertical_label, bias_of(layer.vertical)
                bias = bias if labels is None else bias + labels.weight.detach()
                self._keep(f"gate{index}", bias)

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.clone().to(self.dtype))

    def forward(
        self, above: Tensor, caches: Sequence[Tensor], labels: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """`bias` (W, N, L·2p) and the new caches.

        `above` int32 (N, W, C): the codes of the row above; `labels` int32 (N,). A cache
        (W, N, 2p) is what the rows before say to a row further down, of a layer; the nearest first.
        """
        v = self.prior.embed(above.transpose(0, 1))
        biases, kept, old = [], [], iter(caches)
        for index, layer in enumerate(self.prior.gated_layers()):
            window = _window(v, layer.vertical.kernel_size[1])
            sums = [window @ self.get_buffer(f"vertical{index}_{r}") for r in range(layer.rows)]
            for ahead in range(layer.rows - 1):
                sums[ahead] = sums[ahead] + next(old).to(self.dtype)
            out = sums[0]
            kept += [rest.to(self.outer) for rest in sums[1:]]
            biases.append(out @ self.get_buffer(f"link{index}"))
            if layer.residual is not None:
                gated = gate(out + self._said(f"gate{index}", labels), 2)
                v = gated if layer.first else v + gated
        said = [self._said(f"bias{index}", labels) for index in range(len(biases))]
        return (torch.cat(biases, 2) + torch.cat(said, -1)).to(self.outer), kept

    def _said(self, name: str, labels: Tensor | None) -> Tensor:
        """A layer's bias: (2p,), or with labels (N, 2p)."""
        values = self.get_buffer(name)
        return values if labels is None else F.embedding(labels, values)


def bias_of(convolution: nn.Conv2d) -> Tensor:
    """A convolution's bias; all of a PixelCNN's that are asked for one have it."""
    assert convolution.bias is not None  # noqa: S101 - for mypy
    return convolution.bias.detach()


def _window(v: Tensor, columns: int) -> Tensor:
    """(W, N, p) to (W, N, columns·p): each place with its neighbours, zeros outside the row."""
    padded = F.pad(v, (0, 0, 0, 0, columns // 2, columns // 2))
    return torch.cat([padded[j : j + v.shape[0]] for j in range(columns)], 2)


class StepGraph(nn.Module):
    """Draws the codes of one position from the code before it, the row's biases and the caches.

    Exported twice: top-k and top-p cost a sort a position, which nobody pays who does not filter.
    """

    def __init__(self, prior: PixelCNN, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.outer = next(prior.parameters()).dtype
        self.dtype = dtype or self.outer
        self.prior = prior = in_dtype(prior, self.dtype)
        config = prior.config
        for index, layer in enumerate(prior.gated_layers()):
            # (2p, p, 1, columns) to (columns·p, 2p): the window lies flat, the oldest place first.
            weight = layer.horizontal.weight.detach()[:, :, 0].permute(2, 1, 0)
            self.register_buffer(f"weight{index}", weight.reshape(-1, 2 * config.channels).clone())

    def forward(
        self,
        code: Tensor,
        column: Tensor,
        bias: Tensor,
        noise: Tensor,
        sampling: Mapping[str, Tensor],
        caches: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """One position of every sample.

        `code` int32 (N, C): the codes at the place to the left; `column` int32 (1,); `bias` of the
        row; `noise` float32 (N, C), uniform in (0, 1); `sampling`: the parameters of
        `draw`, (1,) each. Gives the codes int32 (N, C), their logits (N, C, K) and the new caches.
        """
        p = self.prior.config.channels
        h = self.prior.embed(code)
        biases = torch.split(bias.index_select(0, column)[0].to(self.dtype), 2 * p, 1)
        kept, skips, old = [], [], iter(caches)
        for index, layer in enumerate(self.prior.gated_layers()):
            window = h
            if layer.columns > 1:
                window = torch.cat([next(old).to(self.dtype), h], 1)
            if layer.columns > 1:
                # A cache of one place is replaced whole: no need to cut it out of the window.
                kept.append((h if layer.columns == 2 else window[:, p:]).to(self.outer))
            gated = gate(torch.addmm(biases[index], window, self.get_buffer(f"weight{index}")))
            skips.append(gated)
            if layer.residual is not None:
                weight = layer.residual.weight[:, :, 0, 0].T
                h = gated @ weight if layer.first else torch.addmm(h, gated, weight)
        features = self._mix(torch.cat(skips, 1))
        codes: list[Tensor] = []
        logits = []
        for index in range(self.prior.config.num_codebooks):
            before = torch.stack(codes, 1) if codes else code
            logits.append(self.prior.head(index, features, before).to(self.outer))
            codes.append(draw(logits[-1], noise[:, index], **sampling))
        return torch.stack(codes, 1).to(torch.int32), torch.stack(logits, 1), kept

    def _mix(self, skips: Tensor) -> Tensor:
        skip, mix = self.prior.skip, self.prior.mix
        out = F.relu(F.linear(skips, skip.weight[:, :, 0, 0], skip.bias))
        return F.linear(out, mix.weight[:, :, 0, 0], mix.bias)
