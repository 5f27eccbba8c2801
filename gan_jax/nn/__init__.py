"""Flax Linen layers used by several models."""

from gan_jax.nn.attention import SelfAttention
from gan_jax.nn.conditional import Conditional, judged, with_class, with_class_channel
from gan_jax.nn.convolutions import Conv, ConvTranspose
from gan_jax.nn.dense import Dense
from gan_jax.nn.dropout import Dropout
from gan_jax.nn.fourier import FourierFeatures
from gan_jax.nn.initial import DCGAN_INIT, PARAM_DTYPE
from gan_jax.nn.minibatch import MinibatchStd
from gan_jax.nn.modulated import EqualConv, EqualDense, ModulatedConv
from gan_jax.nn.norms import BatchNorm, ModulatedBatchNorm
from gan_jax.nn.resampling import downsample, upsample
from gan_jax.nn.resizing import Doubled, Halved, Repainted

__all__ = [
    "DCGAN_INIT",
    "PARAM_DTYPE",
    "BatchNorm",
    "Conditional",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Doubled",
    "Dropout",
    "EqualConv",
    "EqualDense",
    "FourierFeatures",
    "Halved",
    "MinibatchStd",
    "ModulatedBatchNorm",
    "ModulatedConv",
    "Repainted",
    "SelfAttention",
    "downsample",
    "judged",
    "upsample",
    "with_class",
    "with_class_channel",
]
