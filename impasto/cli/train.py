"""`impasto train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from impasto.cli.options import takes
from impasto.cli.terminal import console
from impasto.cli.training import RunPlace, adversarial_losses, each_loss, prepare, run

if TYPE_CHECKING:
    from impasto.training import diffusion as diffusion_training
    from impasto.training import gan as gan_training
    from impasto.training import image_to_image as image_to_image_training
    from impasto.training import stylegan2 as stylegan2_training
    from impasto.training import vae as vae_training
    from impasto.training.loop import Progress
    from impasto.training.pictures import PictureFolder

Batch = Annotated[int, typer.Option(min=1, help="Pictures a step.")]
Crop = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="MIN MAX", help="Sides of a crop in a picture's pixels; 1.75 and 3.5 times --resolution."),
]
Mirror = Annotated[bool, typer.Option(help="Mirror half of the crops.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the run.")]
Pictures = Annotated[int, typer.Option(min=1, help="Length of the run, in pictures seen.")]
PowerOfTwo = Annotated[int, typer.Option(help="Of the pictures to make: a power of two.")]

app = typer.Typer(no_args_is_help=True, help="Train a small generator on pictures of your own.")


@app.callback()
def train() -> None:
    pass


@app.command("stylegan2")
@takes(place=RunPlace)
def stylegan2(
    place: RunPlace,
    resolution: PowerOfTwo = 128,
    pictures: Pictures = 150_000,
    batch: Batch = 8,
    crop: Crop = None,
    mirror: Mirror = True,
    paired: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of a batch made from crops' latents, to be like them."),
    ] = 0.5,
    noise_to: Annotated[
        int | None, typer.Option(help="Highest resolution that gets noise.", show_default="all do")
    ] = None,
    grow_from: Annotated[int, typer.Option(help="Resolution to begin at; doubles until --resolution.")] = 32,
    grow_pictures: Annotated[int, typer.Option(min=1, help="Pictures seen at each lower resolution.")] = 24_000,
    r1_gamma: Annotated[
        float | None, typer.Option(min=0, help="Weight of R1; 0.0002·resolution²/16.", show_default=False)
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train StyleGAN2 on crops of pictures. Ctrl-C or SIGTERM saves; the same command goes on."""
    options: dict[str, Any] = {
        "mirror": mirror,
        "paired": paired,
        "noise_to": noise_to,
        "grow_from": grow_from,
        "grow_pictures": grow_pictures,
        "r1_gamma": r1_gamma,
        "seed": seed,
    }
    crop = crop or _default_crop(resolution)
    options |= {"pictures": pictures, "batch": batch, "crop": crop}

    def build(found: PictureFolder) -> stylegan2_training.Trainer:
        from impasto.training.stylegan2 import Trainer, default_plan

        return Trainer(default_plan(resolution, **options), found, place.out, place.device)

    def detail(progress: Progress) -> str:
        return f"{trainer.resolution}×{trainer.resolution}  {adversarial_losses(progress)}"

    trainer = prepare(build, place, crop[0])
    run(trainer, pictures, detail, place.out / "weights.safetensors")


@app.command("diffusion")
@takes(place=RunPlace)
def diffusion(
    place: RunPlace,
    resolution: Annotated[int, typer.Option(min=8, help="Of the pictures to make: a multiple of 8.")] = 64,
    pictures: Pictures = 150_000,
    batch: Batch = 8,
    crop: Crop = None,
    mirror: Mirror = True,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of AdamW, after a warm-up.")] = 6e-4,
    seed: Seed = 0,
) -> None:
    """Train a pixel diffusion model on crops of pictures. Ctrl-C or SIGTERM saves; the same command goes on."""
    crop = crop or _default_crop(resolution)

    def build(found: PictureFolder) -> diffusion_training.Trainer:
        from impasto.training.diffusion import DiffusionPlan, Trainer

        plan = DiffusionPlan(
            resolution=resolution,
            pictures=pictures,
            batch=batch,
            crop=crop,
            mirror=mirror,
            learning_rate=learning_rate,
            seed=seed,
        )
        return Trainer(plan, found, place.out, place.device)

    run(prepare(build, place, crop[0]), pictures, each_loss, place.out / "model")


@app.command("gan")
@takes(place=RunPlace)
def gan(
    place: RunPlace,
    resolution: PowerOfTwo = 64,
    pictures: Pictures = 200_000,
    batch: Batch = 32,
    crop: Crop = None,
    mirror: Mirror = True,
    loss: Annotated[str, typer.Option(help="non-saturating, least-squares or wgan-gp.")] = "non-saturating",
    spectral: Annotated[bool, typer.Option(help="Spectral normalisation of the discriminator.")] = True,
    attention: Annotated[
        int | None, typer.Option(help="Resolution of a self-attention block.", show_default="none")
    ] = None,
    classes: Annotated[bool, typer.Option(help="Make the subfolders of --data classes to ask for.")] = False,
    augment: Annotated[bool, typer.Option(help="Augment what the discriminator sees as much as it needs.")] = True,
    z_dim: Annotated[int, typer.Option(min=1, help="Numbers in a latent.")] = 128,
    channels: Annotated[
        int, typer.Option(min=1, help="At half the picture's side; twice as many at each half of it.")
    ] = 64,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of Adam, for both networks.")] = 2e-4,
    seed: Seed = 0,
) -> None:
    """Train a DCGAN on crops of pictures. Ctrl-C or SIGTERM saves; the same command goes on."""
    crop = crop or _default_crop(resolution)

    def build(found: PictureFolder) -> gan_training.Trainer:
        from impasto.generators.gan import GANConfig
        from impasto.training.gan import GANPlan, Trainer
        from impasto.training.gan_losses import loss_name

        names, labels = found.classes() if classes else ((), [])
        plan = GANPlan(
            GANConfig(resolution, z_dim, len(names), channel_base=channels, attention=attention or 0),
            pictures=pictures,
            batch=batch,
            crop=crop,
            mirror=mirror,
            classes=names,
            loss=loss_name(loss),
            spectral=spectral,
            augment=augment,
            learning_rate=learning_rate,
            seed=seed,
        )
        for number, name in enumerate(names):
            console().print(f"class {number}: {name}", markup=False)
        return Trainer(plan, found, place.out, place.device, labels)

    run(prepare(build, place, crop[0]), pictures, adversarial_losses, place.out / "weights.safetensors")


@app.command("vae")
@takes(place=RunPlace)
def vae(
    place: RunPlace,
    resolution: PowerOfTwo = 64,
    pictures: Pictures = 150_000,
    batch: Batch = 16,
    crop: Crop = None,
    mirror: Mirror = True,
    beta: Annotated[float, typer.Option(min=0, help="Weight of the latents' divergence from a normal one.")] = 0.2,
    codebook: Annotated[
        int | None, typer.Option(min=2, help="Train a VQ-VAE with so many codes instead.", show_default=False)
    ] = None,
    latent_channels: Annotated[int, typer.Option(min=1, help="Numbers at each place of a latent.")] = 8,
    latent_side: Annotated[int, typer.Option(min=1, help="Places along a side of a latent; 1 is a vector.")] = 8,
    channels: Annotated[int, typer.Option(min=1, help="At the picture's side; twice as many at each half of it.")] = 16,
    most_channels: Annotated[int, typer.Option(min=1, help="Bound of that.")] = 128,
    adversarial: Annotated[
        float, typer.Option(min=0, help="Weight of a discriminator that keeps pictures sharp; 0: none.")
    ] = 0.1,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of Adam.")] = 1e-3,
    seed: Seed = 0,
) -> None:
    """Train a VAE on crops of pictures. Ctrl-C or SIGTERM saves; the same command goes on."""
    crop = crop or _default_crop(resolution)
    shape: dict[str, int] = {
        "resolution": resolution,
        "latent_channels": latent_channels,
        "latent_side": latent_side,
        "channel_base": channels,
        "channel_max": most_channels,
    }

    def build(found: PictureFolder) -> vae_training.Trainer:
        from impasto.generators.vae import VAEConfig
        from impasto.generators.vq import VQConfig
        from impasto.training.vae import Trainer, VAEPlan

        plan = VAEPlan(
            VQConfig(**shape, codes=codebook) if codebook else VAEConfig(**shape),
            pictures=pictures,
            batch=batch,
            crop=crop,
            mirror=mirror,
            beta=beta,
            adversarial=adversarial,
            learning_rate=learning_rate,
            seed=seed,
        )
        return Trainer(plan, found, place.out, place.device)

    run(prepare(build, place, crop[0]), pictures, each_loss, place.out / "weights.safetensors")


@app.command("image-to-image")
@takes(place=RunPlace)
def image_to_image(
    place: RunPlace,
    resolution: PowerOfTwo = 128,
    pictures: Pictures = 100_000,
    batch: Batch = 8,
    crop: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="MIN MAX", help="Sides of a crop in a picture's pixels; 1 and 1.5 times --resolution."),
    ] = None,
    mirror: Mirror = True,
    channels: Annotated[int, typer.Option(min=1, help="At the picture's side; twice as many at each half.")] = 16,
    blocks: Annotated[int, typer.Option(min=0, help="Residual blocks at a quarter of the side; SPADE has none.")] = 4,
    labels: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=256,
            help="Train SPADE instead, on maps of so many labels, whose colours are in palette.gpl beside the weights.",
            show_default=False,
        ),
    ] = None,
    adversarial: Annotated[float, typer.Option(min=0, help="Weight of the discriminator's verdict.")] = 0.5,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of Adam.")] = 1e-3,
    seed: Seed = 0,
) -> None:
    """Train a painter of flat colours or label maps. Ctrl-C or SIGTERM saves; the same command goes on."""
    crop = crop or (resolution, resolution * 3 // 2)

    def build(found: PictureFolder) -> image_to_image_training.Trainer:
        from impasto.generators.residual import ResidualConfig
        from impasto.training.image_to_image import ImageToImagePlan, Trainer, spade_config

        plan = ImageToImagePlan(
            spade_config(labels, resolution, channels)
            if labels
            else ResidualConfig(channels=channels, blocks=blocks, adds=True, resizes=True, noise=1),
            resolution=resolution,
            pictures=pictures,
            batch=batch,
            crop=crop,
            mirror=mirror,
            adversarial=adversarial,
            learning_rate=learning_rate,
            seed=seed,
        )
        return Trainer(plan, found, place.out, place.device)

    run(prepare(build, place, crop[0]), pictures, each_loss, place.out / "weights.safetensors")


def _default_crop(resolution: int) -> tuple[int, int]:
    return resolution * 7 // 4, resolution * 7 // 2
