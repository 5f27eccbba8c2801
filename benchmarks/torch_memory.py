"""The memory that PyTorch needs for the default MNIST run: `python -m benchmarks.torch_memory`.

The networks, batch size and optimizer are the defaults of `experiments.mnist`. R1, the average of
G's weights and gradient norms are included. Records, grids and checkpoints are written at the same
steps as by the experiment. The code is typical PyTorch code. It needs torch, numpy and pillow, but
nothing of the library, so PyTorch can have its own virtual environment. It runs only on Linux.
"""

import copy
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.torch_dcgan import generator
from benchmarks.workers.protocol import process_memory

STEPS, BATCH, LATENT, WIDTH = 3000, 32, 32, 64
GAMMA, DECAY = 0.5, 0.998
MIB = 2**20


def discriminator() -> nn.Sequential:
    """Returns D: x [B, 1, 28, 28] -> logits [B]."""
    return nn.Sequential(
        nn.Conv2d(1, WIDTH, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(WIDTH, 2 * WIDTH, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * WIDTH, 1, 7),
        nn.Flatten(0),
    )


def norm(network: nn.Module) -> Tensor:
    """Returns the norm of the gradient of all weights."""
    return nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])


def watch(samples: list[float]) -> None:
    """Appends the resident set to `samples` four times a second, as `benchmarks.loop` does."""
    while True:
        samples.append(process_memory()["VmRSS"] / MIB)
        time.sleep(0.25)


def main(folder: Path) -> None:
    """Trains, and prints the peak and the median of the resident memory.

    The median leaves out the start of the run.
    """
    torch.manual_seed(0)
    g, d = generator(LATENT, WIDTH), discriminator()
    average = copy.deepcopy(g)
    tx_g, tx_d = (torch.optim.Adam(player.parameters(), 1e-3, (0.0, 0.99)) for player in (g, d))
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (5000, 1, 28, 28), dtype=np.uint8)
    )
    fixed = torch.randn(64, LATENT, 1, 1)
    settled = list[float]()
    threading.Thread(target=watch, args=(settled,), daemon=True).start()
    for step in range(1, STEPS + 1):
        index = torch.randint(len(images), (BATCH,))
        real = (images[index].float() / 127.5 - 1).requires_grad_()
        tx_d.zero_grad()
        with torch.no_grad():
            fake = g(torch.randn(BATCH, LATENT, 1, 1))
        logits = d(real)
        (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        penalty = GAMMA / 2 * slope.square().sum((1, 2, 3)).mean()
        loss_d = softplus(-logits).mean() + softplus(d(fake)).mean() + penalty
        loss_d.backward()
        norm_d = norm(d)
        tx_d.step()

        tx_g.zero_grad()
        d.requires_grad_(False)
        loss_g = softplus(-d(g(torch.randn(BATCH, LATENT, 1, 1)))).mean()
        loss_g.backward()
        d.requires_grad_(True)
        norm_g = norm(g)
        tx_g.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), g.parameters(), strict=True):
                mean.lerp_(weight, 1 - DECAY)
            for mean, statistic in zip(average.buffers(), g.buffers(), strict=True):
                mean.copy_(statistic)

        if step % 50 == 0:
            figures = {"step": step, "d": loss_d.item(), "g": loss_g.item()}
            figures |= {"norm_d": norm_d.item(), "norm_g": norm_g.item()}
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(figures) + "\n")
        if step % 200 == 0:
            average.eval()
            with torch.no_grad():
                x = ((average(fixed) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
            tiles = x.reshape(8, 8, 28, 28).transpose(0, 2, 1, 3).reshape(224, 224)
            Image.fromarray(tiles).save(folder / "samples.png")
        if step % 500 == 0:
            states = [part.state_dict() for part in (g, d, average)]
            states += [optimizer.state_dict() for optimizer in (tx_g, tx_d)]
            torch.save(states, folder / "checkpoint.pt")
        if step == 200:
            settled.clear()
        if step % 500 == 0:
            print(f"step {step}/{STEPS}: {settled[-1]:.0f} MiB", file=sys.stderr)
    memory = {"settled": statistics.median(settled), "peak": process_memory()["VmHWM"] / MIB}
    print(json.dumps({**memory, "torch": torch.__version__}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
