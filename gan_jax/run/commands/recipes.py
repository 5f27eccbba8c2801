"""Settings of `gan-jax train` for images of any kind, by name.

Each recipe is a complete `Config`. `--recipe NAME` chooses one, other flags override its values,
and `--recipe NAME --print` prints it. All recipes read a folder of images and resize them to 32
pixels.
"""

from pathlib import Path

from gan_jax.run import datasets
from gan_jax.run.commands.train import Config


def _recipe(model: str, **settings: object) -> Config:
    data = datasets.Config(source="folder", size=32)
    common = {"workdir": Path("runs") / model, "num_steps": 100_000, "batch_size": 64, "data": data}
    cadence = {"log_every": 100, "sample_every": 1000, "checkpoint_every": 1000}
    return Config(**{"model": model, **common, **cadence, **settings})  # type: ignore[arg-type]


RECIPES: dict[str, Config] = {
    # The networks of Radford et al. 2016 at half their width, with R1 instead of batch norm in D
    # (Mescheder et al. 2018). A run takes about 17 minutes on two CPU cores.
    "dcgan": _recipe(
        "dcgan",
        width=32,
        latent=64,
        num_steps=20_000,
        batch_size=32,
        generator_lr=1e-3,
        discriminator_lr=1e-3,
        final_lr_share=0.0,
        r1=1.0,
    ),
    # Miyato et al. 2018, table 3 and section B.4. The model has spectral norm, so D needs no R1.
    "sngan": _recipe(
        "sngan",
        latent=128,
        loss="hinge",
        n_critic=5,
        generator_lr=2e-4,
        discriminator_lr=2e-4,
        b1=0.0,
        b2=0.9,
        r1=0.0,
        final_lr_share=0.0,
        ema_decay=0.999,
    ),
    # Zhao et al. 2020 (DiffAugment), the settings for BigGAN on CIFAR-10 with networks of half the
    # width and the batch of the other recipes (64 instead of 50). The rates of Brock et al. 2019
    # are for batches of 2,048 images. The model has spectral norm, so D needs no R1.
    "biggan": _recipe(
        "biggan",
        width=32,
        latent=128,
        loss="hinge",
        n_critic=4,
        generator_lr=2e-4,
        discriminator_lr=2e-4,
        b1=0.0,
        b2=0.999,
        r1=0.0,
        augment="diffaugment",
        ema_decay=0.9999,
    ),
    # Huang et al. 2024, the settings for CIFAR-10 with networks of a quarter of the width, and with
    # schedules that last for the whole run.
    "r3gan": _recipe(
        "r3gan",
        width=192,
        latent=64,
        loss="relativistic",
        generator_lr=2e-4,
        discriminator_lr=2e-4,
        final_lr_share=0.25,
        b1=0.0,
        b2=0.9,
        final_b2=0.99,
        r1=0.05,
        r2=0.05,
        final_penalty_share=0.1,
        augment="ada",
        augment_p=0.55,
        ema_decay=0.9999,
    ),
    # Karras et al. 2020 (ADA), the settings for CIFAR-10 with narrower networks.
    "stylegan2": _recipe(
        "stylegan2",
        width=128,
        latent=512,
        generator_lr=2.5e-3,
        discriminator_lr=2.5e-3,
        b1=0.0,
        b2=0.99,
        r1=0.01,
        penalty_every=16,
        augment="ada",
        ema_decay=0.9999,
    ),
}
"""The recipes by name."""
