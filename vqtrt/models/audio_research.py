"""The research settings of the audio model: losses on its codes beside the paper's, and jitter.

All are off by default; the recipes `vctk-phones` and `digits` use some. `ResearchLosses` is the one
object that knows them: the trainer and the rest of the model see an added loss.

- `target`: a spectrum that is predicted straight from the codes, so that they hold it; with
  `neighbours`, also that of the codes around.
- `speaker_adversary`: a speaker classifier behind a gradient reversal.
- `jitter`: codes that training replaces by a neighbor (arXiv 1901.08810).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.audio import SpeechModelConfig, TargetConfig
from vqtrt.models.audio_parts import SpeakerAdversary, SpectrumTarget, jittered


class ResearchLosses(nn.Module):
    """What a model of audio has of these; a base class, so that weights keep their names."""

    config: SpeechModelConfig

    def add_research_losses(self, config: SpeechModelConfig, sample_rate: int) -> None:
        """Make the modules that the settings ask for."""
        self.target: SpectrumTarget | None = None
        if config.target:
            self.target = SpectrumTarget(config.target, sample_rate, len(config.speakers))
            self.target_head = TargetHead(config, config.target)
        self.adversary: SpeakerAdversary | None = None
        if config.speaker_adversary:
            self.adversary = SpeakerAdversary(
                config.quantizer.dim, config.hidden, len(config.speakers)
            )

    def jittered(self, vectors: Tensor) -> Tensor:
        """Vectors (N, D, t), some of them replaced by a neighbor in training."""
        return jittered(vectors, self.config.jitter) if self.training else vectors

    def with_research_losses(
        self,
        total: Tensor,
        vectors: Tensor,
        audio: Tensor,
        valid_mask: Tensor,
        speakers: Tensor,
        *,
        around: int,
        margin: int,
    ) -> tuple[Tensor, Tensor]:
        """A loss with what is added to it, and the error of the predicted spectrum; scalars.

        `vectors` (N, D, t + 2·around) of the codes of crops, of which t are scored; `audio`
        (N, stride·(t + 2·margin)); `valid_mask` bool (N, t + 2·around), codes that are inside
        their clip; `speakers` int (N,).
        """
        spectrum = total.new_zeros(())
        if self.target is not None:
            cut = (margin - 1) * self.config.stride // self.target.hop
            wanted = self.target(audio, speakers)[:, :, cut:-cut]
            near = valid_mask[:, around - 1 : valid_mask.shape[1] - around + 1]
            spectrum = self.target_head(vectors[:, :, around:-around], speakers, wanted, near)
            total = total + self.config.target_weight * spectrum
        if self.adversary is not None:
            total = total + self.adversary(vectors, speakers, self.config.speaker_adversary)
        return total, spectrum


class TargetHead(nn.Module):
    """What a code says of its own spectrum, and of its neighbours' where these count.

    Each code for itself: with more in sight, what they hold would spread over their neighbours.
    """

    def __init__(self, config: SpeechModelConfig, target: TargetConfig) -> None:
        super().__init__()
        self.first = nn.Conv1d(config.quantizer.dim, config.hidden, 1)
        self.speakers = nn.Embedding(len(config.speakers) + 1, config.hidden)
        self.frames = config.stride // target.hop
        self.weight = target.neighbours
        count = 3 if self.weight else 1
        self.last = nn.Conv1d(config.hidden, count * self.frames * target.size, 1)

    def forward(
        self, vectors: Tensor, speakers: Tensor, wanted: Tensor, valid_mask: Tensor
    ) -> Tensor:
        """Mean squared error of what vectors (N, D, t) say of the spectrum.

        `wanted` (N, size, (t + 2)·frames), in the scale of `SpectrumTarget`, and `valid_mask` bool
        (N, t + 2), the codes that count: one code more on either side.
        """
        hidden = F.relu(self.first(vectors) + self.speakers(speakers)[:, :, None])
        n, _, t = vectors.shape
        made = self.last(hidden).float().view(n, -1, wanted.shape[1], self.frames, t)
        folded = wanted.view(n, -1, t + 2, self.frames).transpose(2, 3)
        error = _mean_square(made[:, 0] - folded[..., 1:-1], valid_mask[:, 1:-1])
        if self.weight:
            around = _mean_square(made[:, 1] - folded[..., :-2], valid_mask[:, :-2])
            around = around + _mean_square(made[:, 2] - folded[..., 2:], valid_mask[:, 2:])
            error = error + self.weight * around
        return error


def _mean_square(errors: Tensor, valid_mask: Tensor) -> Tensor:
    """Of errors (N, size, frames, t) at the codes in valid_mask (N, t)."""
    each = errors.square().mean((1, 2))
    return (each * valid_mask).sum() / valid_mask.sum().clamp_min(1)
