"""CodaTokenizer: a continuous VAE with LoRA, and the quantizer that makes its latent discrete."""

from __future__ import annotations

import copy
import dataclasses
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from coda_deploy.errors import ConfigError
from coda_deploy.families import USER_MODULE, Family, family_of_module
from coda_deploy.tokenizer import storage
from coda_deploy.tokenizer.config import LoraConfig, NormType, Statistic, TokenizerConfig
from coda_deploy.tokenizer.lora import add_lora, lora_layers
from coda_deploy.tokenizer.origin import Origin, source_name
from coda_deploy.tokenizer.pixels import from_pixels
from coda_deploy.tokenizer.quantizer import ResidualQuantizer
from coda_deploy.tokenizer.schedule import scales_for
from coda_deploy.tokenizer.source import Source, open_source
from coda_deploy.tokenizer.vae import check_finite, check_user_module, load_vae
from coda_runtime.errors import InputError, one_line
from coda_runtime.format.sizes import Scales, Size, shape_of
from coda_runtime.format.spec import Spec


class TokenizerOutput(NamedTuple):
    """What a training step needs: images [B, 3, H, W], latents [B, C, h, w], ids int32 [B, L], scalar losses.

    ``prefix`` [n, 3, H, W] is every fourth image decoded from the first scales alone, or None where none were asked.
    """

    reconstruction: Tensor
    ids: Tensor
    latent: Tensor
    quantized: Tensor
    vq_loss: Tensor
    entropy_loss: Tensor
    prefix: Tensor | None = None


PREFIX_STRIDE = 4  # a prefix costs another pass through the decoder: a part of the batch will do


class CodaTokenizer(nn.Module):
    """A discrete image tokenizer (CODA, arXiv 2503.17760), in its unfolded, trainable form.

    Images are float32 [B, 3, H, W] in [-1, 1], or uint8 [B, H, W, 3]; H and W are ``spec.height`` and ``spec.width``.
    The encoder gives the posterior's mode, so that the same image always has the same ids.
    """

    def __init__(self, config: TokenizerConfig, vae: nn.Module | None = None) -> None:
        """Build from a configuration; random weights but for those of ``vae``, where one is given.

        That is as the VAE's family prepares it. Raises ``ConfigError`` where one has to be given and is not.
        """
        super().__init__()
        self.config = config
        # What the weights were imported from, or began as: {"hub", "revision", "commit", "files": {name: SHA-256}}.
        self.checkpoint: dict[str, Any] | None = None
        # What the VAE was before it was adapted, where that is known.
        self.origin: Origin | None = None
        # Of any class: its family knows how it is called.
        self.vae: Any = vae if vae is not None else self.family.make(config.vae)
        self.vae.requires_grad_(False)
        if config.lora is not None:
            add_lora(self.vae, config.lora, self.family)
        self.quantizer = ResidualQuantizer(
            config.vocab_size,
            config.latent_channels,
            config.scales,
            config.attention_dim,
            config.norm,
            config.norm_eps,
        )

    @property
    def spec(self) -> Spec:
        """Image size, scale schedule and vocabulary, under the names a deployed bundle uses."""
        return self.config.spec

    @property
    def family(self) -> Family:
        """What is known of the VAE's class."""
        return self.config.family

    @classmethod
    def from_vae(
        cls,
        vae: nn.Module | str | os.PathLike[str],
        *,
        image_size: Size = 256,
        vocab_size: int = 16384,
        scales: Scales | None = None,
        variant: str = "custom",
        attention_dim: int = 32,
        norm: NormType = "rms",
        lora: LoraConfig | None = LoraConfig(),  # noqa: B008 - frozen
        latent_scale: Statistic | None = None,
        latent_shift: Statistic | None = None,
        license: str | None = None,
    ) -> CodaTokenizer:
        """Start adapting a continuous VAE: the VAE is kept, LoRA (at zero) and a fresh quantizer are added.

        ``vae`` is of a class of diffusers that has a family, a module of the user's own (see docs/training.md), or a
        folder or hub id of the first; it is used, not copied, and loses what a tokenizer has no use for. ``image_size``
        is the side of a square in pixels, or (height, width). ``scales`` are sides, or (height, width) of each; they
        default to what `default_scales` makes of the paper's schedule, ``latent_scale`` and ``latent_shift`` to what
        the VAE says of its latent, numbers or one for each channel. Raises ``ConfigError`` where they do not fit.
        """
        where = None if isinstance(vae, nn.Module) else os.fspath(vae)
        if not isinstance(vae, nn.Module):
            vae = load_vae(vae)
        _check_fresh(vae)
        family = family_of_module(vae)
        known = family.settings(vae)
        shape = family.check(known)
        check_finite(vae, where or type(vae).__name__)
        if family is USER_MODULE:
            check_user_module(vae, shape, image_size)
        statistics = family.statistics(vae)
        vae = family.prepare(vae)
        if scales is None:
            scales = scales_for(image_size, shape.downsample)
        if lora is not None and not lora.targets:
            lora = dataclasses.replace(lora, targets=family.lora_targets)
        config = TokenizerConfig(
            variant=variant,
            image_size=image_size,
            vocab_size=vocab_size,
            scales=scales,
            vae=known,
            latent_scale=statistics.scale if latent_scale is None else latent_scale,
            latent_shift=statistics.shift if latent_shift is None else latent_shift,
            attention_dim=attention_dim,
            norm=norm,
            lora=lora,
            license=license,
        )
        given = latent_scale is not None or latent_shift is not None
        source = None if where is None else source_name(where)
        origin = Origin.of(vae, family, source, "given by the user" if given else statistics.source)
        tokenizer = cls(config, vae)
        tokenizer.origin = origin
        return tokenizer

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | os.PathLike[str], *, vae: nn.Module | None = None) -> CodaTokenizer:
        """Load a tokenizer folder (``config.json``, ``model.safetensors``), local or from the hub; float32, eval mode.

        ``official:VARIANT`` and ``official:VARIANT@REVISION`` load what CODA's authors publish. ``vae`` is for a
        tokenizer of a user's own module: one of that class, whose weights become the folder's. Raises ``ConfigError``,
        ``WeightsError`` or ``HubError`` (all ``CodaError``) naming what is missing, damaged or misshapen.
        """
        return cls.from_source(open_source(path_or_hub_id), vae)

    @classmethod
    def from_source(cls, source: Source, vae: nn.Module | None = None) -> CodaTokenizer:
        """Load what a source has; float32, eval mode. Raises ``CodaError`` as the source does.

        ``vae`` is as for ``from_pretrained``.
        """
        config = source.config
        vae = source.vae if vae is None else vae
        if vae is not None:
            _check_same(vae, config)
        # With nothing to take over, without memory for weights that are read next.
        with torch.device("meta") if vae is None else nullcontext():
            try:
                tokenizer = cls(config, vae)
            except ConfigError:
                raise
            except Exception as error:  # diffusers and PyTorch stumble over a wrong value wherever they use it
                raise ConfigError(
                    f"config.json's vae is not an {config.family.class_name} configuration: {one_line(error)}; "
                    "restore config.json from its source"
                ) from error
        expected = tokenizer.state_dict()
        tensors, tokenizer.checkpoint, tokenizer.origin = source.read(expected)
        typed = {
            key: tensor if expected[key].is_floating_point() else tensor.to(expected[key].dtype)
            for key, tensor in tensors.items()
        }
        tokenizer.load_state_dict(typed, assign=True)
        return tokenizer.freeze().eval()

    def at_size(self, image_size: Size, scales: Scales | None = None) -> CodaTokenizer:
        """Return this tokenizer for images of another size: the same weights, copied, under another schedule.

        Nothing is trained: VAE, LoRA, codebook and attention know of no size. ``image_size`` is in pixels, the side of
        a square or (height, width); ``scales`` default to `default_scales` of the new latent. Raises ``ConfigError``
        where they do not fit.
        """
        scales = scales_for(image_size, self.config.downsample) if scales is None else scales
        made = copy.deepcopy(self)
        made.config = dataclasses.replace(self.config, image_size=image_size, scales=scales)
        made.quantizer.scales = made.config.scales
        return made

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write a tokenizer folder; ``dtype`` (float32 by default) is the precision of the stored VAE and LoRA.

        The quantizer is always stored as float32: its codes and their search decide the tokens. ``checkpoint``, where
        there is one, goes into ``provenance.json``.
        """
        weights = {
            key: tensor
            if dtype is None or key.startswith("quantizer.") or not tensor.is_floating_point()
            else tensor.to(dtype)
            for key, tensor in self.state_dict().items()
        }
        storage.write_folder(Path(folder), self.config, weights, self.checkpoint, self.origin)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as for any module; batch normalisations of the VAE, which is frozen, keep their statistics."""
        super().train(mode)
        for module in self.vae.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def freeze(self) -> CodaTokenizer:
        """Let gradients flow to what CODA trains alone, whatever the tensors asked for when they were loaded."""
        trainable = {name for name, _ in self.trainable()}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trainable)
        return self

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters CODA trains: LoRA and the quantizer."""
        return [(name, p) for name, p in self.named_parameters() if "lora_" in name or name.startswith("quantizer.")]

    def encode_latent(self, images: Tensor) -> Tensor:
        """Turn images into the continuous latent the quantizer sees, ``scale * (mode - shift)``: float [B, C, h, w]."""
        mean = self.family.encode(self.vae, self._pixels(images))
        return a_channel(self.config.latent_scale, mean) * (mean - a_channel(self.config.latent_shift, mean))

    def decode_latent(self, latent: Tensor) -> Tensor:
        """Turn a latent [B, C, h, w] into images [B, 3, H, W] in about [-1, 1], not clamped."""
        scale, shift = (a_channel(value, latent) for value in (self.config.latent_scale, self.config.latent_shift))
        return self.family.decode(self.vae, latent / scale + shift)

    def encode(self, images: Tensor) -> Tensor:
        """Turn images into ids int32 [B, L], coarse to fine, row-major inside a scale."""
        with torch.no_grad():
            return self.quantizer.encode(self.encode_latent(images))

    def embed(self, ids: Tensor) -> Tensor:
        """Turn ids [B, n], n a whole number of scales, into the quantised latent [B, C, h, w].

        Raises ``InputError`` for ids out of [0, V), of another shape, or ending inside a scale.
        """
        return self.quantizer.embed(self._check_ids(ids))

    def decode(self, ids: Tensor) -> Tensor:
        """Turn ids [B, n], whole scales (n = L is all), into images [B, 3, H, W] in about [-1, 1], not clamped.

        Raises ``InputError`` as `embed` does.
        """
        with torch.no_grad():
            return self.decode_latent(self.embed(ids))

    def forward(self, images: Tensor, prefix_scales: int = 0) -> TokenizerOutput:
        """Run one training pass, with gradients to LoRA (encoder and decoder) and to the quantizer."""
        latent = self.encode_latent(images)
        quantized = self.quantizer(latent.float(), prefix_scales)
        reconstruction = self.decode_latent(quantized.latent)
        prefix = None if quantized.prefix is None else self.decode_latent(quantized.prefix[::PREFIX_STRIDE])
        return TokenizerOutput(
            reconstruction,
            quantized.ids,
            latent,
            quantized.latent,
            quantized.vq_loss,
            quantized.entropy_loss,
            prefix,
        )

    def _pixels(self, images: Tensor) -> Tensor:
        height, width = shape_of(self.config.image_size)
        if not isinstance(images, Tensor) or not images.numel():
            found = "an empty batch" if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"images must be a tensor of at least one image, found {found}")
        if images.dtype == torch.uint8:
            if images.ndim != 4 or images.shape[1:] != (height, width, 3):
                raise InputError(f"uint8 images must be [B, {height}, {width}, 3], found {list(images.shape)}")
            return from_pixels(images)
        if not images.is_floating_point() or images.ndim != 4 or images.shape[1:] != (3, height, width):
            raise InputError(
                f"images must be float [B, 3, {height}, {width}] in [-1, 1] or uint8 [B, {height}, {width}, 3], "
                f"found {images.dtype} {list(images.shape)}"
            )
        return images

    def _check_ids(self, ids: Tensor) -> Tensor:
        if not isinstance(ids, Tensor):
            raise InputError(f"ids must be a tensor, found {type(ids).__name__}")
        if ids.ndim != 2 or not len(ids) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise InputError(f"ids must be whole numbers [B, n], found {ids.dtype} {list(ids.shape)}")
        try:
            self.quantizer.num_scales(ids.shape[1])
        except ValueError as error:
            raise InputError(str(error)) from None
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab_size):
            raise InputError(
                f"ids must lie in [0, {self.config.vocab_size}), found {int(ids.min())} to {int(ids.max())}"
            )
        return ids.long()


def a_channel(statistic: Statistic, latent: Tensor) -> float | Tensor:
    """Return what a latent [B, C, h, w] is multiplied with or added to."""
    if not isinstance(statistic, tuple):
        return statistic
    return torch.tensor(statistic, dtype=torch.float32, device=latent.device)[:, None, None]


def _check_fresh(vae: nn.Module) -> None:
    """Raise ``ConfigError`` for a VAE that is part of a tokenizer already."""
    if lora_layers(vae):
        raise ConfigError("the VAE given has LoRA, it is a tokenizer's already: make or load another one")


def _check_same(vae: nn.Module, config: TokenizerConfig) -> None:
    """Raise ``ConfigError`` unless ``vae`` is of the kind that a tokenizer's configuration says."""
    _check_fresh(vae)
    family = family_of_module(vae)
    found, wanted = family.settings(vae), config.vae
    if config.family is not USER_MODULE:
        raise ConfigError(
            f"a module was given, and this tokenizer's VAE is an {config.family.class_name}, which needs none: leave "
            "it out"
        )
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"the module given has {key} {found.get(key)!r}, and the tokenizer was made of one with {wanted[key]!r}: "
            "give a module of the same class"
        )
