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
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import cases
from benchmarks.problem import dequantized
from benchmarks.workers.protocol import Loop, Losses, Setting, cores, serve
from benchmarks.workers.torch_models import model_step, network
from benchmarks.workers.torch_networks import player, tutorial_ends

Step = Callable[[], dict[str, Tensor]]
"""One step: `n_critic` updates of D and one of G. It returns their losses."""


def eager_step(
    generator: nn.Sequential,
    discriminator: nn.Sequential,
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
    generator: nn.Sequential,
    discriminator: nn.Sequential,
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
    compile_: Callable[..., Callable[..., Tensor]] = torch.compile if compiled else lambda f: f
    adam = {"lr": cases.LEARNING_RATE, "betas": (cases.BETA_1, cases.BETA_2), "fused": True}
    adam |= {"capturable": True} if capturable else {}
    tx_d = torch.optim.Adam(discriminator.parameters(), **adam)
    tx_g = torch.optim.Adam(generator.parameters(), **adam)

    @compile_
    def generate(z: Tensor) -> Tensor:
        with autocast():
            return generator(z)

    @compile_
    def discriminator_losses(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        with autocast():
            logits = discriminator(real)
            return F.softplus(-logits).mean() + F.softplus(discriminator(fake)).mean(), logits

    @compile_
    def generator_loss(z: Tensor) -> Tensor:
        with autocast():
            return F.softplus(-discriminator(generator(z))).mean()

    def step() -> dict[str, Tensor]:
        losses = {}
        discriminator.requires_grad_(True)
        for _ in range(case.n_critic):
            real = draw_real().requires_grad_(case.r1 > 0)
            with torch.no_grad():
                fake = generate(draw_z())
            total, logits = discriminator_losses(real, fake)
            losses["discriminator_loss"] = total.detach()
            if case.r1:
                (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
                losses["r1"] = gradient.square().sum() / len(real)
                total = total + case.r1 * losses["r1"]
            tx_d.zero_grad()
            total.backward()
            tx_d.step()
        discriminator.requires_grad_(False)
        loss_g = generator_loss(draw_z())
        tx_g.zero_grad()
        loss_g.backward()
        tx_g.step()
        return losses | {"generator_loss": loss_g}

    return step


def build(setting: Setting) -> Loop:
    """Returns the loop of `torch_eager`, `torch_tuned` or `torch_compile`."""
    contender, case, problem, *_ = setting
    torch.manual_seed(0)
    if not case.is_chain:
        generator, discriminator = (
            network(case.model, name, problem.weights[name])
            for name in ("generator", "discriminator")
        )
        draws = real_batches(setting, True), noise(setting)
        return _loop(model_step(generator, discriminator, *draws, case))
    tuned, layers = contender != "torch_eager", case.players()
    generator, discriminator = (
        player(layers[name], problem.weights[name], inplace=not case.r1) for name in layers
    )
    if case.model == "dcgan":
        if tuned:
            generator.to(memory_format=torch.channels_last)
            discriminator.to(memory_format=torch.channels_last)
        else:
            generator, discriminator = tutorial_ends(generator, discriminator, layers)
    draw_real, draw_z = real_batches(setting, tuned), noise(setting)
    if tuned:
        compiled = contender == "torch_compile"
        step = tuned_step(generator, discriminator, draw_real, draw_z, case, compiled)
        if not setting.fixed:
            torch.set_num_threads(_fastest_threads(step))
    else:
        step = eager_step(generator, discriminator, draw_real, draw_z, case)
    return _loop(step)


def _loop(step: Step) -> Loop:
    def loop(steps: int) -> tuple[int, Losses]:
        for _ in range(steps):
            losses = step()
        return steps, {name: loss.item() for name, loss in losses.items()}

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
