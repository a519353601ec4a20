"""Export an encoder, a decoder and a plain codebook (K, D) as a vqtrt bundle.

The weights here are random: replace the modules with your trained ones.
"""

import argparse

import numpy as np
import torch
from torch import nn

import vqtrt
from vqtrt.export import export_tokenizer

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", default="own-codebook-bundle", help="folder of the bundle")
parser.add_argument("--size", type=int, default=32, help="pixels per side")
args = parser.parse_args()

torch.manual_seed(0)
# Images (N, 3, H, W) in [-0.5, 0.5] to vectors (N, 16, H/4, W/4), and back.
encoder = nn.Sequential(
    nn.Conv2d(3, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 4, stride=2, padding=1)
)
decoder = nn.Sequential(
    nn.ConvTranspose2d(16, 32, 4, stride=2, padding=1),
    nn.ReLU(),
    nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1),
)
quantizer = torch.randn(512, 16)

bundle = export_tokenizer(
    args.out,
    encoder=encoder,
    decoder=decoder,
    quantizer=quantizer,
    height=args.size,
    width=args.size,
    name="own-codebook",
)

# The rest does not need torch.
images = np.random.default_rng(0).integers(256, size=(4, args.size, args.size, 3), dtype=np.uint8)
tokenizer = vqtrt.load(bundle.path)
codes = tokenizer.encode(images)
print(f"codes of {len(images)} images: {codes.dtype} {codes.shape}, 0 to {codes.max()}")
print(f"decoded: {tokenizer.decode(codes).shape}")
