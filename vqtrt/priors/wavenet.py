"""A WaveNet prior over the codes of speech (paper, section 4.3), in its full form.

The WaveNet of the decoder (arXiv 1609.03499), over the K codes instead of levels. A speaker is
global conditioning (section 2.5): one bias a layer, the same at every step, so that the cached form
(`wavenet_graphs.py`) adds it to what a layer has anyway.

Shapes: N clips, t codes, p channels, L layers, K the codebook's size, which also stands for
"nothing before".
"""

import torch
from torch import Tensor, nn

from vqtrt.config.audio import WaveNetConfig
from vqtrt.models.wavenet import WaveNet


class WaveNetPrior(nn.Module):
    """Distribution of codes (N, t), each code given those before it."""

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        self.config = config
        self.wavenet = WaveNet(config, config.codebook_size, dropout=config.dropout)
        self.speakers: nn.Embedding | None = None
        if config.num_classes:
            width = len(config.dilations) * 2 * config.channels
            self.speakers = nn.Embedding(config.num_classes, width)
            # As PixelCNN's labels: from zero they are learnt too slowly, large ones are noise.
            nn.init.normal_(self.speakers.weight, std=0.3)

    @torch.no_grad()
    def start_from(self, codebooks: Tensor) -> None:
        """Start embeddings and logits from the tokenizer's codebook (1, K, D), by random maps.

        Codes whose vectors are near then begin with like embeddings and like logits, so what is
        learnt of one also holds for its neighbors, instead of being learnt for each of K.
        """
        entries = codebooks[0]
        k, dim = entries.shape
        centred = entries - entries.mean(0)
        vectors = centred / (centred.std() * dim**0.5).clamp_min(1e-12)
        # The embedding has one entry more, for "nothing before", which stays as it is.
        for weight in (self.wavenet.embedding.weight[:k], self.wavenet.out.weight):
            directions = torch.randn(dim, weight.shape[1]).to(weight)
            weight.copy_(vectors @ directions * weight.std())

    def bias(self, speakers: Tensor | None) -> Tensor | None:
        """What speakers int (N,) add to each layer, (N, L·2p); None for a prior without speakers.

        Raises `ValueError` where only one of the two has speakers.
        """
        if (speakers is None) != (self.speakers is None):
            has = "no" if self.speakers is None else self.config.num_classes
            raise ValueError(f"this prior is conditioned on {has} speakers")
        if speakers is None or self.speakers is None:
            return None
        out: Tensor = self.speakers(speakers)
        return out

    def forward(self, codes: Tensor, speakers: Tensor | None = None) -> Tensor:
        """Logits (N, t, K), float32 at least, of codes int (N, t), each from the codes before it.

        `speakers` int (N,), where the prior is conditioned on them.
        """
        bias = self.bias(speakers)
        previous = self.wavenet.shift_right(codes)
        frame = None if bias is None else bias[:, None]
        logits: Tensor = self.wavenet(previous, frame, codes.shape[1])
        # In half precision a softmax over them would lose bits.
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
