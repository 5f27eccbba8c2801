"""The baseline: the network of PyTorch's DCGAN tutorial, for 28x28 grey digits.

`python -m benchmarks.torch_dcgan --digits digits.npz --out torch_seed0.npz` trains it on the
digits that `python -m benchmarks.quality --export digits.npz` wrote, and saves samples for
`benchmarks.quality`. It needs torch, numpy and tyro, and nothing of this package, so that PyTorch
can have a virtual environment of its own.

Everything follows the tutorial (N. Inkawhich, "DCGAN Tutorial", pytorch.org): weights from
N(0, 0.02), Adam at 2e-4 with betas (0.5, 0.999), binary cross-entropy, a real pass and a fake
pass for D, then a step of G on the same fakes, samples drawn with the batch's own statistics.
Only the ends of the two networks differ, for 28x28x1 in place of 64x64x3 images.
"""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the baseline; the defaults are the benchmark's."""

    digits: Path  # the digits to train on: npz with `x` uint8 [N, 28, 28, 1]
    out: Path  # where the samples go: npz with `x` uint8 [samples, 28, 28, 1]
    seed: int = 0  # of weights, noise and the order of the data
    width: int = 64  # channels w of the layer nearest the image; the other has 2 w
    latent: int = 100  # dimensions of z
    batch_size: int = 64  # images
    steps: int = 4000  # of each player
    learning_rate: float = 2e-4  # of both Adams
    samples: int = 5000  # images saved at the end
    threads: int = 2  # CPU threads


def generator(latent: int, width: int) -> nn.Sequential:
    """z [B, latent, 1, 1] -> x [B, 1, 28, 28] in [-1, 1]."""
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
    """x [B, 1, 28, 28] -> probability of being real [B]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * width, 1, 7, 1, 0, bias=False),
        nn.Sigmoid(),
        nn.Flatten(0),
    )


def initialise(module: nn.Module) -> None:
    """The tutorial's: convolutions N(0, 0.02), batch-norm scales N(1, 0.02) and offsets 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def train(config: Config, images: np.ndarray) -> tuple[nn.Sequential, float]:
    """Trains on images uint8 [N, 28, 28, 1]; returns the generator and training images/s."""
    real_images = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    net_g, net_d = generator(config.latent, config.width), discriminator(config.width)
    net_g.apply(initialise)
    net_d.apply(initialise)
    adam = {"lr": config.learning_rate, "betas": (0.5, 0.999)}
    tx_g = torch.optim.Adam(net_g.parameters(), **adam)
    tx_d = torch.optim.Adam(net_d.parameters(), **adam)
    criterion = nn.BCELoss()
    ones, zeros = torch.ones(config.batch_size), torch.zeros(config.batch_size)
    order = torch.empty(0, dtype=torch.int64)

    start = time.perf_counter()
    for step in range(config.steps):
        if len(order) < config.batch_size:  # an epoch of whole batches
            order = torch.randperm(len(real_images))
        index, order = order[: config.batch_size], order[config.batch_size :]

        net_d.zero_grad()
        loss_real = criterion(net_d(real_images[index]), ones)
        loss_real.backward()
        fake = net_g(torch.randn(config.batch_size, config.latent, 1, 1))
        loss_fake = criterion(net_d(fake.detach()), zeros)
        loss_fake.backward()
        tx_d.step()

        net_g.zero_grad()
        loss_g = criterion(net_d(fake), ones)
        loss_g.backward()
        tx_g.step()

        if step % 250 == 0:
            loss_d = loss_real.item() + loss_fake.item()
            print(f"{step:6d}  loss_D {loss_d:.3f}  loss_G {loss_g.item():.3f}", flush=True)
    seconds = time.perf_counter() - start
    return net_g, config.steps * config.batch_size / seconds


def sample(net_g: nn.Sequential, config: Config) -> np.ndarray:
    """Samples uint8 [samples, 28, 28, 1], batch by batch in the generator's present mode."""
    batches: list[Tensor] = []
    with torch.no_grad():
        for _ in range(-(-config.samples // config.batch_size)):
            batches.append(net_g(torch.randn(config.batch_size, config.latent, 1, 1)))
    x = torch.cat(batches)[: config.samples].permute(0, 2, 3, 1)
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def main(config: Config) -> None:
    """Trains, samples, and says how fast the training was."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with np.load(config.digits) as file:
        images = file["x"]
    net_g, images_per_second = train(config, images)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(config.out, x=sample(net_g, config))
    net_g.eval()  # not the tutorial's way, but a fair question: running statistics instead
    running = config.out.with_stem(config.out.stem + "_running")
    np.savez_compressed(running, x=sample(net_g, config))
    result = {"torch": torch.__version__, "images_per_second": round(images_per_second, 1)}
    print(json.dumps(result | dataclasses.asdict(config), default=str))


if __name__ == "__main__":
    import tyro  # here, for those who only want the networks

    main(tyro.cli(Config))
