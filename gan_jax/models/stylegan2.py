"""StyleGAN2 (Karras et al. 2020) for images of nearly any size."""

import math
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from gan_jax import batches, priors
from gan_jax.networks.linen import from_linen
from gan_jax.nn.conditional import Conditional, judged, labels_for, with_class_channel
from gan_jax.nn.initial import PARAM_DTYPE, biased
from gan_jax.nn.minibatch import MinibatchStd
from gan_jax.nn.modulated import EqualConv, EqualDense, ModulatedConv, activated, normalised
from gan_jax.nn.resampling import upsample
from gan_jax.random import per_example
from gan_jax.trees import at_least_single
from gan_jax.types import GAN, Array, Output, Pass, PyTree

_SMALLEST = 4
_MEAN = "mean"
"""The collection of G's model state that holds the running mean of w."""

Architecture: TypeAlias = Literal["skip", "residual"]
"""The two forms of G. See `stylegan2`."""


class Mixed(NamedTuple):
    """Two latents per example, and the layers of G that use the second latent.

    In evaluation G uses the first latent only.

    Attributes:
      z: [B, 2, L].
      second: [B, N] booleans, one for each layer of G.
    """

    z: Array
    second: Array


class Styles(NamedTuple):
    """The input of G's synthesis network. G receives it instead of z to skip the mapping network.

    Attributes:
      w: [B, L], or [B, N, L] with one vector for each layer of G.
    """

    w: Array


def stylegan2(
    shape: tuple[int, int, int],
    *,
    latent: int = 128,
    width: int = 32,
    num_classes: int | None = None,
    conditional: Conditional = "projection",
    max_width: int = 512,
    mapping_depth: int = 2,
    style_mixing: float = 0.0,
    architecture: Architecture = "skip",
) -> GAN:
    """Returns StyleGAN2: a G with skip or residual connections, and a residual D.

    A mapping network turns z ~ N(0, I) into w, which scales the features of each convolution of G.
    Every layer of G adds noise to its features if G receives a key. `gan_jax.sample` passes a key,
    and `generate` passes one on request. G's output is linear: it may leave [-1, 1].

    G has N = 2 * (number of doublings) + 2 layers that receive w. Besides z [B, L], G accepts z
    [B, N, L] with one latent for each layer, `Mixed` and `Styles`.

    The configuration F of the paper, for images [1024, 1024, 3], has latent=512, width=32 and
    mapping_depth=8. For CIFAR-10, StyleGAN2-ADA (Karras et al. 2020b) uses latent=512, width=512,
    mapping_depth=2 and no style mixing.

    Args:
      shape: [H, W, C] of one image. The smaller side is 4, 5, 6 or 7 times a power of two, at least
        8, and the same power divides the other side. The first layer of G has 4 to 7 pixels.
      latent: number of dimensions of z and of w.
      width: number of features of the layers with the size of the image. The number doubles
        each time the size is halved, up to `max_width`.
      num_classes: number of classes of a conditional GAN, or None for an unconditional GAN. G's
        mapping network receives z and an embedding of the class.
      conditional: how D uses the class. See `gan_jax.nn.Conditional`. With "projection" the logit
        is the product of D's features and a mapping network's output for the class, without an
        unconditional term, as in StyleGAN2-ADA.
      max_width: see `width`.
      mapping_depth: number of dense layers of the mapping network.
      style_mixing: probability that a training example has two latents, as in the prior of
        StyleGAN (Karras et al. 2019, section 3.1). The first latent styles the layers before a
        random one, and the second latent styles the others. The paper uses 0.9. If it is above 0,
        the prior returns `Mixed`.
      architecture: the form of G (Karras et al. 2020, section 4.2). With "skip", as in
        configuration F, each size has an image, and G sums the upsampled images. With "residual",
        the input of each doubling is added to its result, and only the last features become an
        image.

    Raises:
      ValueError: the images have another size, `style_mixing` is not in [0, 1], or `architecture`
        is unknown.
    """
    if architecture not in get_args(Architecture):
        raise ValueError(f"architecture is 'skip' or 'residual', got {architecture!r}")
    if not 0 <= style_mixing <= 1:
        raise ValueError(f"style_mixing is a probability, got {style_mixing}: 0.9 is usual")
    height, breadth, channels = shape
    levels = int(math.log2(max(min(height, breadth), 1) / _SMALLEST))
    if levels < 1 or height % 2**levels or breadth % 2**levels:
        raise ValueError(
            f"stylegan2 takes images whose smaller side is 4, 5, 6 or 7 times a power of two, at "
            f"least 8, and whose other side is divisible by this power, got {height}x{breadth}: "
            "resize them, or choose another model"
        )
    first = height >> levels, breadth >> levels
    widths = tuple(min(width << level, max_width) for level in range(levels + 1))
    layers = 2 * levels + 2
    prior = _mixing(latent, layers, style_mixing) if style_mixing else priors.normal(latent)
    return GAN(
        generator=from_linen(
            _Generator(
                first, channels, widths[::-1], latent, mapping_depth, num_classes, architecture
            )
        ),
        discriminator=from_linen(_Discriminator(widths, mapping_depth, num_classes, conditional)),
        prior=prior,
    )


def styles(params: PyTree, z: PyTree, label: Array | None = None, *, train: bool = False) -> Array:
    """Returns w [B, L] of latents z, or [B, N, L] if the layers of G have different latents.

    Args:
      params: the parameters of G, as in `state.ema_params`.
      z: latents [B, L] or [B, N, L], or `Mixed`.
      label: integers [B] for a conditional G.
      train: whether `Mixed` latents are mixed. If not, the first latents are used.
    """
    own = params["mapping"]
    depth = sum(name.startswith("dense") for name in own)
    num_classes = own["embedding"]["dense"]["kernel"].shape[0] if "embedding" in own else None
    mapping = _Mapping(own["dense_0"]["bias"].shape[0], depth, num_classes)
    w: Any = mapping.apply({"params": own}, z, label, train=train)
    return w


def truncated(gan: GAN, psi: float) -> GAN:
    """Returns the GAN with a G that uses mean + psi (w - mean) instead of w, for sampling.

    The mean is the running mean of w from training, a part of G's model state. Samples with psi
    below 1 are more typical and less varied (Karras et al. 2019, appendix B).

    Args:
      gan: a GAN from `stylegan2`.
      psi: 1 does not change the samples. With 0 all samples equal that of the mean, apart from
        the noise.
    """

    def apply(
        params: PyTree,
        model_state: PyTree,
        z: PyTree,
        label: PyTree | None = None,
        /,
        *,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Any, PyTree]:
        w = styles(params, z, label, train=train)
        mean = model_state[_MEAN]["w"].astype(w.dtype).reshape(*[1] * (w.ndim - 1), -1)
        z = Styles(mean + psi * (w - mean))
        return gan.generator.apply(params, model_state, z, label, train=train, key=key)

    return gan._replace(generator=gan.generator._replace(apply=apply))


def path(seen: Pass) -> tuple[Array, Callable[[Array], Array]]:
    """Returns w and the function w -> x [B, H, W, C], for `terms.path_length(path=path)`.

    The shape of w is that of the result of `styles`: [B, L] or [B, N, L].
    """
    w = styles(seen.generator.params, seen.z, seen.fake_label, train=True)
    return w, lambda w: seen.generator(Styles(w))


def _mixing(latent: int, layers: int, probability: float) -> Callable[[Array, int], Mixed]:
    def prior(key: Array, num: int) -> Mixed:
        key_z, key_cut, key_mixed = jax.random.split(key, 3)
        cut = jax.random.randint(key_cut, (num, 1), 1, layers)
        mixed = jax.random.bernoulli(key_mixed, probability, (num, 1))
        return Mixed(
            z=jax.random.normal(key_z, (num, 2, latent)),
            second=mixed & (jnp.arange(layers)[None] >= cut),
        )

    return prior


class _Mapping(nn.Module):
    """The network (z, class) -> w. Without z it is D's network class -> embedding."""

    features: int
    depth: int
    num_classes: int | None

    @nn.compact
    def __call__(self, z: PyTree, label: Array | None = None, *, train: bool = False) -> Array:
        second = None
        if isinstance(z, Mixed):
            z, second = (z.z, z.second) if train else (z.z[:, 0], None)
        inputs = [] if z is None else [normalised(z)]
        label = labels_for(self.num_classes, label)
        if self.num_classes is not None:
            of_class = EqualDense(self.features, name="embedding")(
                jax.nn.one_hot(label, self.num_classes)
            )
            of_class = normalised(of_class)
            if z is not None and z.ndim == 3:
                of_class = jnp.broadcast_to(of_class[:, None], (*z.shape[:2], self.features))
            inputs.append(of_class)
        w = jnp.concatenate(inputs, axis=-1)
        for number in range(self.depth):
            w = activated(EqualDense(self.features, rate=0.01, name=f"dense_{number}")(w))
        return w if second is None else jnp.where(second[..., None], w[:, 1:], w[:, :1])


class _Styled(nn.Module):
    """A modulated convolution with noise, bias and activation."""

    features: int
    up: bool = False

    @nn.compact
    def __call__(self, x: Array, w: Array, noise: Array | None) -> Array:
        x = ModulatedConv(self.features, up=self.up, name="conv")(x, w)
        strength = self.param("noise", nn.initializers.zeros, (), PARAM_DTYPE)
        if noise is not None:
            x += strength * noise.reshape(-1, *x.shape[1:3], 1).astype(x.dtype)
        return activated(biased(self, x))


class _ToImage(nn.Module):
    """The image [B, H, W, channels] of a layer's features."""

    channels: int

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        x = ModulatedConv(self.channels, window=1, demodulate=False, name="conv")(x, w)
        return biased(self, x)


class _Generator(nn.Module):
    first: tuple[int, int]
    channels: int
    widths: tuple[int, ...]
    latent: int
    mapping_depth: int
    num_classes: int | None
    architecture: Architecture

    @nn.compact
    def __call__(self, z: PyTree, label: Array | None = None, *, train: bool) -> Array:
        w = z.w if isinstance(z, Styles) else self._mapped(z, label, train)
        layers = 2 * len(self.widths)
        if w.shape[-1] != self.latent or (w.ndim == 3 and w.shape[1] != layers):
            raise ValueError(
                f"w and z must be [B, {self.latent}] or [B, {layers}, {self.latent}], one vector "
                f"for each layer of the generator, got {list(w.shape)}"
            )
        each = [w] * layers if w.ndim == 2 else [w[:, layer] for layer in range(layers)]
        features = self._features(each, self._noise(w))
        if self.architecture == "residual":
            return _ToImage(self.channels)(features[-1], each[-1])
        image = _ToImage(self.channels)(features[0], each[1])
        for x, style in zip(features[1:], each[3::2], strict=True):
            image = upsample(image) + _ToImage(self.channels)(x, style)
        return image

    def _features(self, each: list[Array], noise: Iterator[Array | None]) -> list[Array]:
        """Returns features [B, H, W, F] of all sizes, from the first to that of the image."""
        x = self.param("constant", nn.initializers.normal(1.0), (1, *self.first, self.widths[0]))
        found = [_Styled(self.widths[0])(x, each[0], next(noise))]
        for level, width in enumerate(self.widths[1:]):
            x = _Styled(width, up=True)(found[-1], each[2 * level + 1], next(noise))
            x = _Styled(width)(x, each[2 * level + 2], next(noise))
            if self.architecture == "residual":
                skip = upsample(EqualConv(width, window=1, use_bias=False)(found[-1]))
                x = (x + skip) * math.sqrt(0.5)
            found.append(x)
        return found

    def _mapped(self, z: PyTree, label: Array | None, train: bool) -> Array:
        mapping = _Mapping(self.latent, self.mapping_depth, self.num_classes, name="mapping")
        w = mapping(z, label, train=train)
        mean = self.variable(_MEAN, "w", jnp.zeros, (self.latent,), PARAM_DTYPE)
        if train and not self.is_initializing():
            now = batches.mean(at_least_single(w), tuple(range(w.ndim - 1)))
            mean.value = (0.995 * mean.value + 0.005 * now).astype(mean.value.dtype)
        return w

    def _noise(self, w: Array) -> Iterator[Array | None]:
        """Returns noise [B, pixels] for each layer, or None if there is no key."""
        pixels = [math.prod(self.first) * 4**level for level in range(len(self.widths))]
        layers = [pixels[0], *(size for size in pixels[1:] for _ in range(2))]
        if self.is_initializing() or not self.has_rng("params"):
            return iter([None] * len(layers))
        keys = per_example(self.make_rng("noise"), w)
        # One draw for all layers takes less time to compile than one for each layer.
        drawn = jax.vmap(lambda key: jax.random.normal(key, (sum(layers),), w.dtype))(keys)
        return iter(jnp.split(drawn, list(accumulate(layers))[:-1], axis=1))


class _Discriminator(nn.Module):
    widths: tuple[int, ...]
    mapping_depth: int
    num_classes: int | None
    conditional: Conditional

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array | Output:
        x = with_class_channel(x, self.num_classes, label, self.conditional)
        x = activated(EqualConv(self.widths[0], window=1)(x))
        for before, after in pairwise(self.widths):
            y = activated(EqualConv(before)(x))
            y = activated(EqualConv(after, down=True)(y))
            skip = EqualConv(after, window=1, down=True, use_bias=False)(x)
            x = (y + skip) * math.sqrt(0.5)
        x = activated(EqualConv(self.widths[-1])(MinibatchStd()(x)))
        x = activated(EqualDense(self.widths[-1])(x.reshape(x.shape[0], -1)))
        if self.num_classes is None or self.conditional == "concat":
            return EqualDense(1)(x)[:, 0]
        if self.conditional != "projection":
            return judged(x, self.num_classes, label, self.conditional)
        features = self.widths[-1]
        of_class = _Mapping(features, self.mapping_depth, self.num_classes)(None, label)
        return jnp.sum(EqualDense(features)(x) * of_class, axis=-1) / math.sqrt(features)
