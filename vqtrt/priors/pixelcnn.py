"""Gated PixelCNN over codes (van den Oord et al. 2016, arXiv 1606.05328), in its full form.

A vertical stack sees all rows above, a horizontal stack what is left in the row and, through a
link in each layer, the vertical one: no blind spot. The features of the vertical stack at row r
depend on rows above r only, so the link needs no shift; only the first layer of each stack is
shifted, and all layers after it may look at their own place.

Two choices make the cached form (`pixelcnn_cached.py`) cheap and are the same function otherwise:
the skip connections of all layers are one matrix product over their concatenation, and everything
that the vertical stack and the label have to say to a position is one bias a layer.

With C codes at a position they are predicted in order: the head of code c also sees the codes
before it at that place.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.images import PixelCNNConfig


def gate(x: Tensor, dim: int = 1) -> Tensor:
    """tanh of the first half of the channels times the sigmoid of the second."""
    a, b = x.chunk(2, dim)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """One layer of both stacks; `first` layers are shifted so that they do not see their place."""

    def __init__(self, config: PixelCNNConfig, first: bool, last: bool) -> None:
        super().__init__()
        p, k = config.channels, config.first_kernel if first else config.kernel
        if k is None:
            raise ValueError("the kernel is open: PixelCNNConfig.fitted chooses it")
        self.first = first
        # An odd kernel of k columns: (k + 1) / 2 rows or columns up to the own place, which the
        # first layer leaves out, so that both kinds reach (k − 1) / 2 further.
        self.rows = self.columns = (k - 1) // 2 if first else (k + 1) // 2
        self.vertical = nn.Conv2d(p, 2 * p, (self.rows, k))
        self.horizontal = nn.Conv2d(p, 2 * p, (1, self.columns))
        self.link = nn.Conv2d(2 * p, 2 * p, 1)
        self.residual = None if last else nn.Conv2d(p, p, 1, bias=False)
        classes = config.num_classes
        # Nothing reads the last layer's vertical gate; processes that train together would miss
        # the gradient of a parameter that nothing reads.
        self.vertical_label = nn.Embedding(classes, 2 * p) if classes and not last else None
        self.horizontal_label = nn.Embedding(classes, 2 * p) if classes else None

    def pad_columns(self, v: Tensor) -> Tensor:
        """Zeros left and right, for the vertical convolution to keep the width."""
        side = self.vertical.kernel_size[1] // 2
        return F.pad(v, (side, side))

    @staticmethod
    def label(table: nn.Embedding | None, labels: Tensor) -> Tensor:
        """What a label adds to every position before the gate: (N, 2p, 1, 1)."""
        if table is None:
            raise ValueError("this prior is not conditioned on labels")
        out: Tensor = table(labels)
        return out[:, :, None, None]

    def forward(self, v: Tensor, h: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """New vertical and horizontal features (N, p, H, W), and what goes to the skip sum.

        Nothing reads the features of the last layer: it returns what it was given.
        """
        # Rows above only: padded on top by the kernel, cut to the height. A first layer is padded
        # by one more row, which shifts it down.
        above = self.rows if self.first else self.rows - 1
        left = self.columns if self.first else self.columns - 1
        height, width = v.shape[2:]
        v_in = F.pad(self.pad_columns(v), (0, 0, above, 0))
        v_out = self.vertical(v_in)[:, :, :height]
        h_out = self.horizontal(F.pad(h, (left, 0)))[..., :width] + self.link(v_out)
        if labels is not None:
            h_out = h_out + self.label(self.horizontal_label, labels)
        gated = gate(h_out)
        if self.residual is None:
            return v, h, gated
        if labels is not None:
            v_out = v_out + self.label(self.vertical_label, labels)
        v_new, h_new = gate(v_out), self.residual(gated)
        if not self.first:
            v_new, h_new = v + v_new, h + h_new
        return v_new, h_new, gated


class PixelCNN(nn.Module):
    """Distribution of codes (N, H, W, C), each code given those before it in raster order."""

    def __init__(self, config: PixelCNNConfig) -> None:
        super().__init__()
        self.config = config
        k, c, p, s = config.codebook_size, config.num_codebooks, config.channels, config.head
        # Entry K stands for "nothing there" and is zero: what lies outside the picture.
        self.embeddings = nn.ModuleList(nn.Embedding(k + 1, p, padding_idx=k) for _ in range(c))
        self.layers = nn.ModuleList(
            GatedLayer(config, i == 0, i == config.layers - 1) for i in range(config.layers)
        )
        self.skip = nn.Conv2d(config.layers * p, s, 1)
        self.before = nn.ModuleList(nn.Embedding(k, s) for _ in range(c - 1))
        self.mix = nn.Conv2d(s, s, 1)
        self.heads = nn.ModuleList(nn.Linear(s, k) for _ in range(c))
        self.dropout = nn.Dropout(config.dropout)
        for name, weight in self.named_parameters():
            if "label" in name:
                # From zero, labels are learnt too slowly for a short training, and large ones are
                # noise that a long training has to unlearn.
                nn.init.normal_(weight, std=0.3)
            elif weight.ndim == 4:
                # As large behind each layer as before it (He et al. 2015, arXiv 1502.01852), where
                # torch's own start shrinks it; twice the variance before a ReLU.
                before_relu = name.startswith(("skip", "mix"))
                nn.init.normal_(weight, std=((2 if before_relu else 1) / weight[0].numel()) ** 0.5)

    @torch.no_grad()
    def start_from(self, codebooks: Tensor) -> None:
        """Start embeddings and heads from the tokenizer's codebooks (C, K, D), by random maps.

        Codes whose vectors are near then begin with like embeddings and like logits, so what is
        learnt of one also holds for its neighbors, instead of being learnt for each of K.
        """
        parameters = dict(self.named_parameters())
        for index, entries in enumerate(codebooks):
            k, dim = entries.shape
            centred = entries - entries.mean(0)
            vectors = centred / (centred.std() * dim**0.5).clamp_min(1e-12)
            for part in ("embeddings", "heads"):
                # An embedding has one entry more, for "nothing there", which stays zero.
                weight = parameters[f"{part}.{index}.weight"][:k]
                directions = torch.randn(dim, weight.shape[1]).to(weight)
                weight.copy_(vectors @ directions * weight.std())

    def gated_layers(self) -> list[GatedLayer]:
        """The layers, the first first."""
        return [layer for layer in self.layers if isinstance(layer, GatedLayer)]

    def embed(self, codes: Tensor) -> Tensor:
        """(…, C) codes, K for nothing, to (…, p)."""
        out: Tensor = self.embeddings[0](codes[..., 0])
        for i, table in enumerate(self.embeddings[1:], 1):
            out = out + table(codes[..., i])
        return out

    def features(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        """What the heads see at each position of codes (N, H, W, C): (N, H, W, S)."""
        v = h = self.embed(codes).permute(0, 3, 1, 2)
        skips = []
        for layer in self.gated_layers():
            v, h, gated = layer(v, h, labels)
            skips.append(gated)
        mixed: Tensor = self.mix(F.relu(self.skip(self.dropout(torch.cat(skips, 1)))))
        return mixed.permute(0, 2, 3, 1)

    def head(self, index: int, features: Tensor, codes: Tensor) -> Tensor:
        """Logits (…, K) of code `index` from features (…, S) and the codes before it, (…, C)."""
        for earlier in range(index):
            features = features + self.before[earlier](codes[..., earlier])
        logits: Tensor = self.heads[index](F.relu(features))
        return logits

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (N, H, W, C, K) float32 for codes (N, H, W, C) and labels (N,)."""
        features = self.features(codes, labels)
        count = self.config.num_codebooks
        return torch.stack([self.head(i, features, codes) for i in range(count)], 3).float()
