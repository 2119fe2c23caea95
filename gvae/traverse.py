"""Pictures of an encoder: reconstructions, the light decoder's view, latent traversals, KL per latent."""

import torch
from jaxtyping import Float
from torch import Tensor

from gvae.losses import kl_to_standard_normal
from gvae.objective import VAEObjective
from gvae.recorder import Recorder
from gvae.vae import VAE

SHOWN = 8  # images or latents a picture shows


def latent_names(vae: VAE) -> list[str]:
    """Name every latent by its slot: ``rotation``, or ``content_07`` in a slot of several."""
    names = []
    for slot, size in vae.slot_sizes.items():
        names += [slot] if size == 1 else [f"{slot}_{index:02d}" for index in range(size)]
    return names


def kl_per_latent(vae: VAE, images: Float[Tensor, "n c h w"]) -> Float[Tensor, " d"]:
    """Return the mean KL of each latent over the images, nats."""
    return kl_to_standard_normal(*vae.encode(images)).mean(0)


def traversal(
    vae: VAE, image: Float[Tensor, "1 c h w"], latents: list[int], reach: float = 2.5, steps: int = 9
) -> Float[Tensor, "k steps c h w"]:
    """Decode one image's posterior mean with each of ``latents`` (k) swept from -reach to reach, the rest kept."""
    mean = vae.encode(image).mean
    z = mean.repeat(len(latents), steps, 1)
    sweep = torch.linspace(-reach, reach, steps, device=mean.device)
    for row, latent in enumerate(latents):
        z[row, :, latent] = sweep
    return vae.mean_image(z.flatten(0, 1)).unflatten(0, (len(latents), steps))


def tile(images: Float[Tensor, "rows columns c h w"]) -> Float[Tensor, "1 c height width"]:
    """Lay images out as one picture, row under row, so that no viewer breaks the rows elsewhere."""
    rows, columns, c, h, w = images.shape
    return images.permute(2, 0, 3, 1, 4).reshape(1, c, rows * h, columns * w)


def guided_latents(vae: VAE) -> list[int]:
    """Return the indices of the latents outside the ``content`` slot, at most ``SHOWN`` of them."""
    content = range(*vae.slots["content"].indices(vae.latents)) if "content" in vae.slots else range(0)
    return [index for index in range(vae.latents) if index not in content][:SHOWN]


def preview(objective: VAEObjective, images: Float[Tensor, "n c h w"], step: int, recorder: Recorder) -> None:
    """Record what the model sees and does: call in eval mode without gradients.

    KL per latent has a curve for each guided latent; of the others, which are many, it is recorded.
    Rows of the reconstruction: images, the decoder's mean, what each part decodes, such as the light decoder's image
    and its canonical one. Components come in the order of the variance that they account for. A traversal goes from
    -2.5 to 2.5 standard deviations of the prior, left to right, a row a latent. An objective that trains no decoder has
    no pictures.
    """
    vae = objective.vae
    names = latent_names(vae)
    kl = kl_per_latent(vae, images)
    values = {f"kl_per_latent/{name}": float(value) for name, value in zip(names, kl, strict=True)}
    curves = {f"kl_per_latent/{names[latent]}" for latent in guided_latents(vae)}
    if curves:
        recorder.scalars(step, {name: value for name, value in values.items() if name in curves})
    recorder.numbers(step, {name: value for name, value in values.items() if name not in curves})
    recorder.histogram(step, "kl_per_latent", kl)
    shown = images[:SHOWN]
    mean = vae.encode(shown).mean
    more = objective.pictures(mean)
    if not objective.decodes:
        return
    rows = [shown, vae.mean_image(mean), *more.values()]
    recorder.images(step, "_".join(["reconstruction/image_mean", *more]), tile(torch.stack(rows)))
    if objective.geometry:
        components = _to_unit(objective.geometry.sorted_components(vae.encode(images).mean))
        recorder.images(step, "light/components", tile(components[None]))
    show_traversals(vae, shown[:1], kl, step, recorder)


def preview_trained(vae: VAE, images: Float[Tensor, "n c h w"], recorder: Recorder) -> None:
    """Record reconstructions and traversals of a trained encoder with its decoder, in eval mode without gradients."""
    shown = images[:SHOWN]
    recorder.images(0, "reconstruction/image_mean", tile(torch.stack([shown, vae.mean_image(vae.encode(shown).mean)])))
    show_traversals(vae, shown[:1], kl_per_latent(vae, images), 0, recorder)


def show_traversals(
    vae: VAE, image: Float[Tensor, "1 c h w"], kl: Float[Tensor, " d"], step: int, recorder: Recorder
) -> None:
    """Record a sweep of each guided latent, and of the others that carry most, a row a latent."""
    names, guided = latent_names(vae), guided_latents(vae)
    for latent in guided:
        recorder.images(step, f"traversal/{names[latent]}", tile(traversal(vae, image, [latent])))
    busiest = [index for index in kl.argsort(descending=True).tolist() if index not in guided][:SHOWN]
    recorder.images(step, "traversal/most_informative", tile(traversal(vae, image, busiest)))


def preview_augmentation(
    images: Float[Tensor, "n c h w"], augmented: Float[Tensor, "n c h w"], step: int, recorder: Recorder
) -> None:
    """Record a row of images and, under it, a row of the same as they were trained on."""
    recorder.images(step, "augmentation", tile(torch.stack([images[:SHOWN], augmented[:SHOWN]])))


def _to_unit(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)
