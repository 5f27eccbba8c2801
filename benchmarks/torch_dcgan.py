"""The baseline: the network of PyTorch's DCGAN tutorial, for 28x28 grey digits.

`python -m benchmarks.torch_dcgan --digits digits.npz --out torch_seed0.npz` trains it on the digits
written by `python -m benchmarks.quality --export digits.npz`, and saves samples for
`benchmarks.quality`. It needs torch, numpy and tyro, but nothing of `gan_jax`, so PyTorch can have
its own virtual environment.

It follows the tutorial (N. Inkawhich, "DCGAN Tutorial", pytorch.org). Weights are drawn from N(0,
0.02^2). Adam has a rate of 2e-4 and betas (0.5, 0.999). The loss is binary cross-entropy. D makes
one pass on real images and one on fakes, and then G makes a step on the same fakes. The batch norm
of samples uses the statistics of their own batch. The first and the last layers differ from the
tutorial, because the images are 28x28x1 instead of 64x64x3. A second file, `*_running.npz`, has
samples that use the running statistics.
"""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases import CASES
from benchmarks.workers.torch_variants import eager_step


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the baseline. The defaults are those of the benchmark."""

    digits: Path  # training digits: npz with `x` uint8 [N, 28, 28, 1]
    out: Path  # file for the samples: npz with `x` uint8 [samples, 28, 28, 1]
    seed: int = 0  # seed of the weights, the noise and the order of the data
    width: int = 64  # channels of the layer nearest to the image; twice as many in the other
    latent: int = 100  # number of dimensions of z
    batch_size: int = 64  # images per step
    steps: int = 4000  # updates of each player
    samples: int = 5000  # number of images saved at the end
    threads: int = 2  # number of CPU threads


def generator(latent: int, width: int) -> nn.Sequential:
    """Returns G: z [B, latent, 1, 1] -> x [B, 1, 28, 28] in [-1, 1]."""
    return nn.Sequential(
        nn.ConvTranspose2d(latent, 2 * width, 7, 1, 0, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(True),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(True),
        nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


def discriminator(width: int) -> nn.Sequential:
    """Returns D: x [B, 1, 28, 28] -> logits [B]. The loss has the tutorial's sigmoid."""
    return nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * width, 1, 7, 1, 0, bias=False),
        nn.Flatten(0),
    )


def initialise(module: nn.Module) -> None:
    """Draws the tutorial's initial weights.

    Kernels are drawn from N(0, 0.02^2), and scales of batch norm from N(1, 0.02^2). Offsets are 0.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def train(config: Config, images: np.ndarray) -> tuple[nn.Sequential, float]:
    """Trains on images uint8 [N, 28, 28, 1]. Returns the generator and the speed in images/s."""
    real_images = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    net_g, net_d = generator(config.latent, config.width), discriminator(config.width)
    net_g.apply(initialise)
    net_d.apply(initialise)
    order = torch.empty(0, dtype=torch.int64)

    def draw_real() -> Tensor:
        nonlocal order
        if len(order) < config.batch_size:  # an epoch contains only whole batches
            order = torch.randperm(len(real_images))
        index, order = order[: config.batch_size], order[config.batch_size :]
        return real_images[index]

    def draw_z() -> Tensor:
        return torch.randn(config.batch_size, config.latent, 1, 1)

    step = eager_step(net_g, net_d, draw_real, draw_z, CASES["dcgan28"])
    start = time.perf_counter()
    for number in range(config.steps):
        losses = step()
        if number % 250 == 0:
            words = "  ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
            print(f"{number:6d}  {words}", flush=True)
    seconds = time.perf_counter() - start
    return net_g, config.steps * config.batch_size / seconds


def sample(net_g: nn.Sequential, config: Config) -> np.ndarray:
    """Returns samples uint8 [samples, 28, 28, 1], in batches and in the generator's current
    mode."""
    batches: list[Tensor] = []
    with torch.no_grad():
        for _ in range(-(-config.samples // config.batch_size)):
            batches.append(net_g(torch.randn(config.batch_size, config.latent, 1, 1)))
    x = torch.cat(batches)[: config.samples].permute(0, 2, 3, 1)
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def main(config: Config) -> None:
    """Trains, writes samples and prints the speed of the training."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with np.load(config.digits) as file:
        images = file["x"]
    net_g, images_per_second = train(config, images)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(config.out, x=sample(net_g, config))
    net_g.eval()  # unlike the tutorial, these samples use running statistics
    running = config.out.with_stem(config.out.stem + "_running")
    np.savez_compressed(running, x=sample(net_g, config))
    result = {"torch": torch.__version__, "images_per_second": round(images_per_second, 1)}
    print(json.dumps(result | dataclasses.asdict(config), default=str))


if __name__ == "__main__":
    import tyro  # imported here because the networks do not need it

    main(tyro.cli(Config))
