"""The worker of PyTorch for `benchmarks.gpu.speed`.

`torch_eager` follows PyTorch's DCGAN tutorial, but keeps the images on the card. `torch_tuned` uses
channels last, cuDNN's benchmark mode and the fused Adam. It computes no gradient of D's weights in
G's step, and runs the whole step, including its draws, in one CUDA graph. `torch_compile` is the
same step with compiled networks and losses, without the graph. `torch_compile_graph` is compiled
and runs in the graph.

In bfloat16 the networks run under autocast. TF32 is a setting of the backends. Without a GPU there
is no graph, and TF32 means float32.
"""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.request import read
from benchmarks.workers.protocol import Loop, Setting, serve
from benchmarks.workers.torch_variants import (
    Step,
    eager_step,
    loop_of,
    networks,
    noise,
    real_batches,
    tuned_step,
)

_WARM_UP = 3
"""Number of steps on a side stream before a capture. They allocate buffers for gradients and
optimizers."""


class Lowered(nn.Module):
    """A module under autocast with its result in float32."""

    def __init__(
        self, module: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        super().__init__()
        self.module, self.autocast = module, autocast

    def forward(self, x: Tensor) -> Tensor:
        with self.autocast():
            y = self.module(x)
        return y.float()


def build(setting: Setting) -> Loop:
    """Returns the loop of a contender."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device("cpu")
    if device == "cpu":
        torch.set_num_threads(1)  # without a card the run is only a rehearsal
    _forget()
    torch.manual_seed(0)
    products = setting.precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = products
    torch.backends.cudnn.benchmark = setting.contender != "torch_eager"

    def lower() -> AbstractContextManager[Any]:
        return torch.autocast(device, torch.bfloat16)

    autocast = lower if setting.precision == "bfloat16" else nullcontext
    generator, discriminator = (network.to(device) for network in networks(setting))
    torch.set_default_device(device)
    draw_real, draw_z = real_batches(setting, tuned=True), noise(setting)
    if setting.contender == "torch_eager":
        step = eager_step(
            Lowered(generator, autocast),
            Lowered(discriminator, autocast),
            lambda: draw_real().contiguous(),  # the tutorial's images have channels first in memory
            draw_z,
            setting.case,
        )
        return loop_of(step)
    graphed = (
        device == "cuda"
        and not setting.fixed
        and setting.contender in ("torch_tuned", "torch_compile_graph")
    )
    step = tuned_step(
        generator,
        discriminator,
        draw_real,
        draw_z,
        setting.case,
        setting.contender.startswith("torch_compile"),
        autocast=autocast,
        capturable=graphed,
    )
    return loop_of(_graph(step) if graphed else step)


def _graph(step: Step) -> Step:
    """Returns the step as one CUDA graph, with fresh draws at each replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = step()

    def replayed() -> dict[str, Tensor]:
        graph.replay()
        return losses

    return replayed


def _forget() -> None:
    """Frees the memory of the previous setting."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    serve(build, {"torch": torch.__version__}, read)
