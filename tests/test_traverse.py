"""Pictures of an encoder: where a picture's pixels come from."""

import torch

from gvae.nets import initialise
from gvae.traverse import guided_latents, latent_names, tile, traversal
from gvae.vae import VAE


def small() -> VAE:
    vae = VAE((1, 28, 28), latents=6, slots={"rotation": 1, "translation": 2, "content": 3})
    initialise(vae, torch.Generator().manual_seed(0))
    return vae.eval()


def test_tile_keeps_every_image_at_its_row_and_column():
    images = torch.arange(2 * 3 * 1 * 4 * 5, dtype=torch.float32).reshape(2, 3, 1, 4, 5)
    picture = tile(images)
    assert picture.shape == (1, 1, 8, 15)
    for row in range(2):
        for column in range(3):
            block = picture[0, :, row * 4 : row * 4 + 4, column * 5 : column * 5 + 5]
            assert torch.equal(block, images[row, column])


def test_latents_are_named_by_their_slots():
    vae = small()
    content = ["content_00", "content_01", "content_02"]
    assert latent_names(vae) == ["rotation", "translation_00", "translation_01", *content]
    assert guided_latents(vae) == [0, 1, 2]


def test_a_traversal_moves_one_latent_and_keeps_the_rest():
    vae = small()
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        swept = traversal(vae, image, [1, 4], reach=2.0, steps=5)
        z = vae.encode(image).mean.repeat(5, 1)
        z[:, 4] = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
        torch.testing.assert_close(swept[1], vae.mean_image(z))
    assert swept.shape == (2, 5, 1, 28, 28)
