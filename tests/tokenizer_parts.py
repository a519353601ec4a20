"""Modules of one's own, as `export_tokenizer` takes them."""

import torch
from torch import nn


def parts(dim=6, codebook=(32, 6)):
    """Stride 4; with dropout, which has to be off, and a batch norm, which has to stay as it is."""
    torch.manual_seed(0)
    return {
        "encoder": nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, dim, 1)
        ),
        "decoder": nn.Sequential(nn.Conv2d(dim, 48, 1), nn.Dropout(0.5), nn.PixelShuffle(4)),
        "quantizer": torch.randn(codebook),
    }
