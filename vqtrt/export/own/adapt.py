"""Which `DeployedQuantizer` does what a user's quantizer does, and what that quantizer itself says.

Read against vector-quantize-pytorch 1.30 to 1.32; older versions lack options that are read here.
Options that change only training make no difference; one that the graph's form cannot follow is
refused by name.
"""

import importlib.metadata
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vqtrt.errors import VqtrtError
from vqtrt.models.quantize.deployed import DeployedQuantizer, Nearest
from vqtrt.models.quantize.scalar import FiniteScalar, LookupFree

PACKAGE = "vector_quantize_pytorch"
_LEAST = (1, 30)
"""As in the extra `vq`: the first version whose modules all have the options that are read here."""
Quantizer = Tensor | nn.Module
"""A codebook (K, D) or (C, K, D), or a VectorQuantize, ResidualVQ, FSQ or LFQ module."""


def adapt(quantizer: Quantizer) -> DeployedQuantizer:
    """The graph form of a quantizer; it shares the module's projections. Raises `VqtrtError`."""
    if isinstance(quantizer, Tensor):
        return _codebook(quantizer)
    kind = kind_of(quantizer)
    if kind is None:
        raise VqtrtError(
            f"no quantizer that can be exported: {type(quantizer).__name__}; pass a codebook "
            f"tensor (K, D) or (C, K, D), or one of {', '.join(_KINDS)} of vector-quantize-pytorch"
        )
    version = _version()
    if version is not None and _parsed(version) < _LEAST:
        raise _other_version(kind, version, "older ones work in another way")
    try:
        return _KINDS[kind](quantizer)
    except AttributeError as error:
        # A version from before that is not installed as a package, or one that is newer.
        raise _other_version(kind, version, str(error)) from error


def _version() -> str | None:
    """Of the package; None if it is not installed as one."""
    try:
        return importlib.metadata.version("vector-quantize-pytorch")
    except importlib.metadata.PackageNotFoundError:
        return None


def _parsed(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _other_version(kind: str, version: str | None, reason: str) -> VqtrtError:
    least = ".".join(map(str, _LEAST))
    return VqtrtError(
        f"{kind} of vector-quantize-pytorch {version or 'of unknown version'} cannot be exported "
        f'({reason}): version {least} or later is needed: pip install "vqtrt[vq]"'
    )


def kind_of(quantizer: Any) -> str | None:
    """The name of the package's class that a module is of; None for anything else."""
    for cls in type(quantizer).__mro__:
        if cls.__module__.split(".")[0] == PACKAGE:
            return cls.__name__ if cls.__name__ in _KINDS else None
    return None


class Answer(NamedTuple):
    """What a quantizer makes of vectors z (N, channels, h, w)."""

    codes: Tensor
    """(N, h, w, C) int64."""
    vectors: Tensor
    """(N, channels, h, w), what the decoder gets."""


def answer(module: Any, z: Tensor) -> Answer:
    """The package's own codes and vectors for z: of a module in eval mode, by its `forward`."""
    n, _, h, w = z.shape
    kind = kind_of(module)
    if kind == "LFQ":
        image, last = module.channel_first is not False, True
    elif kind == "FSQ":
        image, last = True, True
    else:
        image, last = module.accept_image_fmap, getattr(module, "channel_last", True)
    flat = z.flatten(2)
    given = z if image else flat.mT.contiguous() if last else flat
    vectors, codes = module(given)[:2]
    if not image:
        vectors = (vectors.mT if last else vectors).unflatten(-1, (h, w))
    return Answer(codes.reshape(n, h, w, -1).long(), vectors)


def _codebook(codebook: Tensor) -> DeployedQuantizer:
    shape = tuple(codebook.shape)
    if codebook.ndim not in (2, 3) or not codebook.is_floating_point():
        raise VqtrtError(
            f"a codebook of {codebook.dtype} {shape}: expected floats (K, D), "
            "or (C, K, D) for C codebooks"
        )
    if shape[-2] < 2 or 0 in shape:
        raise VqtrtError(
            f"a codebook of shape {shape}: needs two entries at least, in the order (K, D) or "
            "(C, K, D)"
        )
    if not codebook.isfinite().all():
        raise VqtrtError("the codebook has entries that are not finite: it cannot be exported")
    return Nearest(codebook if codebook.ndim == 3 else codebook[None])


def _vector_quantize(module: Any) -> DeployedQuantizer:
    _refuse(module, accept_3d_fmap=False)
    book = module._codebook
    _check_codebook(book, "VectorQuantize")
    embed = book.embed.detach()
    if embed.shape[0] != module.heads:
        # Heads that share one codebook.
        embed = embed.expand(module.heads, -1, -1)
    return Nearest(
        embed,
        cosine=module.use_cosine_sim,
        channels=module.dim,
        project_in=module.project_in,
        project_out=module.project_out,
    )


def _residual_vq(module: Any) -> DeployedQuantizer:
    _refuse(module, accept_image_fmap=False, implicit_neural_codebook=False, diveq=False)
    if (module.eval_beam_size or 1) > 1:
        raise _refused("ResidualVQ", "eval_beam_size", module.eval_beam_size)
    if not module.uniform_codebook_size:
        raise _refused("ResidualVQ", "codebook_size", module.codebook_sizes)
    for layer in module.layers:
        if not layer.channel_last:
            raise _refused("ResidualVQ", "channel_last", False)
        _check_codebook(layer._codebook, "ResidualVQ")
    projected = module.has_projections
    return Nearest(
        torch.cat([layer._codebook.embed.detach() for layer in module.layers]),
        residual=True,
        cosine=module.layers[0].use_cosine_sim,
        channels=module.project_in.in_features if projected else module.codebook_dim,
        project_in=module.project_in,
        project_out=module.project_out,
    )


def _check_codebook(book: Any, name: str) -> None:
    if not bool(book.initted):
        raise VqtrtError(
            f"{name}: its codebook is not there yet (kmeans_init): run a batch through it first"
        )
    if book.affine_param:
        # Even in eval mode it moves with each batch: an image's codes depend on the others.
        raise _refused(name, "affine_param", True)
    if book.vq_bridge is not None:
        raise _refused(name, "vq_bridge", type(book.vq_bridge).__name__)
    if not book.embed.isfinite().all():
        raise VqtrtError(f"{name}: its codebook has entries that are not finite")


def _fsq(module: Any) -> DeployedQuantizer:
    if not module.return_indices:
        raise _refused("FSQ", "return_indices", False)
    return FiniteScalar(
        module._levels,
        module._basis,
        symmetric=module.preserve_symmetry,
        hard=module.bound_hard_clamp,
        channels=module.dim,
        num_codebooks=module.num_codebooks,
        project_in=module.project_in,
        project_out=module.project_out,
        rotation=module.orthogonal_rot if module.orthogonal_rotation else None,
    )


def _lfq(module: Any) -> DeployedQuantizer:
    corner = torch.full((module.codebook_dim,), float(module.codebook_scale))
    return LookupFree(
        module.mask,
        value=float(module.maybe_l2norm(corner)[0]),
        channels=module.dim,
        num_codebooks=module.num_codebooks,
        project_in=module.project_in,
        project_out=module.project_out,
        rotation=module.orthogonal_rot if module.orthogonal_rotation else None,
    )


_KINDS: dict[str, Callable[[Any], DeployedQuantizer]] = {
    "VectorQuantize": _vector_quantize,
    "ResidualVQ": _residual_vq,
    "FSQ": _fsq,
    "LFQ": _lfq,
}


def _refuse(module: Any, **supported: object) -> None:
    """Refuse the module's options that are not as supported."""
    for option, value in supported.items():
        if getattr(module, option) != value:
            raise _refused(kind_of(module) or "", option, getattr(module, option))


def _refused(name: str, option: str, value: object) -> VqtrtError:
    return VqtrtError(f"{name} with {option}={value!r} cannot be exported: leave {option} out")
