"""The worker of three PyTorch variants: the DCGAN tutorial's code, a tuned form and a compiled
form.

`torch_eager` follows N. Inkawhich, "DCGAN Tutorial" (pytorch.org). It uses binary cross-entropy,
one backward pass on real and one on fake, and a step of G on the same fakes. G's step also computes
gradients of D's weights and discards them. Adam is plain. The images come from a DataLoader without
worker processes, because they are in memory. The dense ends of a DCGAN are convolutions over the
whole image. It has one thread per core.

`torch_tuned` computes no gradients that it would discard and makes one backward pass for the sum of
D's losses. It uses channels last, linear layers for a DCGAN's ends, the fused Adam and all images
in one tensor. It uses one thread if that is faster, as for small networks. `torch_compile` is the
same with both losses compiled by `torch.compile`.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import cases
from benchmarks.problem import dequantized
from benchmarks.workers.protocol import Loop, Losses, Setting, cores, serve
from benchmarks.workers.torch_models import network
from benchmarks.workers.torch_networks import player, tutorial_ends

Step = Callable[[], dict[str, Tensor]]
"""One step: `n_critic` updates of D and one of G. It returns their losses."""


def eager_step(
    generator: nn.Module,
    discriminator: nn.Module,
    draw_real: Callable[[], Tensor],
    draw_z: Callable[[], Tensor],
    case: cases.Case,
) -> Step:
    """Returns the tutorial's step."""
    adam = {"lr": cases.LEARNING_RATE, "betas": (cases.BETA_1, cases.BETA_2)}
    tx_d = torch.optim.Adam(discriminator.parameters(), **adam)
    tx_g = torch.optim.Adam(generator.parameters(), **adam)
    criterion = nn.BCEWithLogitsLoss()

    def step() -> dict[str, Tensor]:
        for _ in range(case.n_critic):
            discriminator.zero_grad()
            real = draw_real()
            ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
            loss_real = criterion(discriminator(real), ones)
            loss_real.backward()
            fake = generator(draw_z())
            loss_fake = criterion(discriminator(fake.detach()), zeros)
            loss_fake.backward()
            tx_d.step()
        generator.zero_grad()
        loss_g = criterion(discriminator(fake), ones)
        loss_g.backward()
        tx_g.step()
        return {"discriminator_loss": loss_real + loss_fake, "generator_loss": loss_g}

    return step


def tuned_step(
    generator: nn.Module,
    discriminator: nn.Module,
    draw_real: Callable[[], Tensor],
    draw_z: Callable[[], Tensor],
    case: cases.Case,
    compiled: bool,
    *,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    capturable: bool = False,
) -> Step:
    """Returns the tuned step, with or without compiled losses.

    Args:
      generator, discriminator, draw_real, draw_z, case: as for `eager_step`.
      compiled: whether `torch.compile` compiles the networks and the losses.
      autocast: the context in which the networks are called.
      capturable: whether a CUDA graph may capture the step.
    """
    compile_: Callable[..., Callable[..., Any]] = torch.compile if compiled else lambda f: f
    adam = {"lr": cases.LEARNING_RATE, "betas": (cases.BETA_1, cases.BETA_2), "fused": True}
    adam |= {"capturable": True} if capturable else {}
    tx_d = torch.optim.Adam(discriminator.parameters(), **adam)
    tx_g = torch.optim.Adam(generator.parameters(), **adam)

    @compile_
    def generate(z: Tensor) -> Tensor:
        with autocast():
            return generator(z)

    @compile_
    def discriminator_loss(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with autocast():
            of_real, of_fake = discriminator(real), discriminator(fake)
            return _discriminator_loss(case.loss, of_real, of_fake), of_real, of_fake

    @compile_
    def generator_loss(z: Tensor, real: Tensor | None) -> Tensor:
        with autocast():
            of_fake = discriminator(generator(z))
            if real is not None:
                return F.softplus(discriminator(real) - of_fake).mean()
            return -of_fake.mean() if case.loss == "hinge" else F.softplus(-of_fake).mean()

    def step() -> dict[str, Tensor]:
        losses = {}
        discriminator.requires_grad_(True)
        for _ in range(case.n_critic):
            real = draw_real().requires_grad_(case.r1 > 0)
            with torch.no_grad():
                fake = generate(draw_z())
            fake.requires_grad_(case.r2 > 0)
            total, of_real, of_fake = discriminator_loss(real, fake)
            losses["discriminator_loss"] = total.detach()
            if case.r1:
                losses["r1"] = _squared_slope(of_real, real)
                total = total + case.r1 * losses["r1"]
            if case.r2:
                total = total + case.r2 * _squared_slope(of_fake, fake)
            tx_d.zero_grad()
            total.backward()
            tx_d.step()
        discriminator.requires_grad_(False)
        loss_g = generator_loss(draw_z(), draw_real() if case.loss == "relativistic" else None)
        tx_g.zero_grad()
        loss_g.backward()
        tx_g.step()
        return losses | {"generator_loss": loss_g}

    return step


def _discriminator_loss(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    match loss:
        case "relativistic":
            return F.softplus(fake - real).mean()
        case "hinge":
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        case _:
            return F.softplus(-real).mean() + F.softplus(fake).mean()


def _squared_slope(logits: Tensor, x: Tensor) -> Tensor:
    """Returns the mean of |grad D|^2 over a batch x, with a graph for its derivatives."""
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.square().sum() / len(x)


def build(setting: Setting) -> Loop:
    """Returns the loop of `torch_eager`, `torch_tuned` or `torch_compile`."""
    contender, case = setting.contender, setting.case
    torch.manual_seed(0)
    tuned = contender != "torch_eager"
    players, draws = networks(setting), (real_batches(setting, tuned), noise(setting))
    if not tuned:
        return loop_of(eager_step(*players, *draws, case))
    step = tuned_step(*players, *draws, case, contender == "torch_compile")
    if case.is_chain and not setting.fixed:
        torch.set_num_threads(_fastest_threads(step))
    return loop_of(step)


def networks(setting: Setting) -> tuple[nn.Module, nn.Module]:
    """Returns G and D with the weights of the problem, in the form that the contender uses."""
    case, weights = setting.case, setting.problem.weights
    if not case.is_chain:
        g, d = (network(case.model, name, weights[name]) for name in ("generator", "discriminator"))
        return g, d
    layers = case.players()
    generator, discriminator = (
        player(layers[name], weights[name], inplace=not case.r1) for name in layers
    )
    if case.model == "dcgan" and setting.contender == "torch_eager":
        return tutorial_ends(generator, discriminator, layers)
    if case.model == "dcgan":
        generator.to(memory_format=torch.channels_last)
        discriminator.to(memory_format=torch.channels_last)
    return generator, discriminator


def loop_of(step: Step) -> Loop:
    """Returns the loop of a step.

    The loop raises FloatingPointError if a loss of its last step is not finite.
    """

    def loop(steps: int) -> tuple[int, Losses]:
        for _ in range(steps):
            losses = step()
        found = {name: loss.item() for name, loss in losses.items()}  # this waits for a GPU
        if not all(map(math.isfinite, found.values())):
            raise FloatingPointError(f"the losses are {found}")
        return steps, found

    return loop


def _fastest_threads(step: Step) -> int:
    """Returns the number of threads with the faster steps: 1 or the number of cores."""
    rates = {}
    for threads in {1, cores()}:
        torch.set_num_threads(threads)
        step()
        start, made = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < 0.5:
            step()
            made += 1
        rates[threads] = made / seconds
    return max(rates, key=lambda threads: rates[threads])


def real_batches(setting: Setting, tuned: bool) -> Callable[[], Tensor]:
    """Returns a function that draws a real batch."""
    case, size = setting.case, setting.problem.batch_size

    def images(x: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(dequantized(x)).to(torch.get_default_device())
        if case.on_ring:
            return tensor
        tensor = tensor.permute(0, 3, 1, 2)
        return tensor if tuned else tensor.contiguous()

    if setting.fixed:
        real = images(setting.problem.real)
        return lambda: real.detach()
    if case.on_ring:
        angle = 2 * torch.pi * torch.arange(cases.NUM_MODES) / cases.NUM_MODES
        centres = cases.RADIUS * torch.stack([angle.cos(), angle.sin()], 1)

        def draw() -> Tensor:
            mode = torch.randint(cases.NUM_MODES, (size,))
            return centres[mode] + cases.SCALE * torch.randn(size, 2)

        return draw
    data = images(setting.problem.images)
    if tuned:
        return lambda: data[torch.randint(len(data), (size,))]
    loader = DataLoader(TensorDataset(data), size, shuffle=True, drop_last=True)
    epochs: Iterator[list[Tensor]] = itertools.chain.from_iterable(itertools.repeat(loader))
    return lambda: next(epochs)[0]


def noise(setting: Setting) -> Callable[[], Tensor]:
    """Returns a function that draws z."""
    z = torch.from_numpy(setting.problem.z).to(torch.get_default_device())
    if setting.fixed:
        return lambda: z
    if setting.case.model == "maxout":
        return lambda: (torch.rand(z.shape) * 2 - 1) * 3**0.5
    return lambda: torch.randn(z.shape)


if __name__ == "__main__":
    torch.set_num_threads(cores())
    serve(build, {"torch": torch.__version__})
