"""The sampling grid against torch's own: values, gradients, every size and type."""

import pytest
import torch
import torch.nn.functional as F

from gvae.warp import sampling_grid, warp


def matrices(n, seed=0, dtype=torch.float32):
    drawn = torch.rand(n, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    return drawn.to(dtype)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (84, 84), (5, 9), (1, 7), (1, 1)])
def test_the_grid_is_affine_grids(height, width):
    for dtype, atol in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        matrix = matrices(6, dtype=dtype)
        expected = F.affine_grid(matrix[:, :2], [6, 1, height, width], align_corners=False)
        found = sampling_grid(matrix, height, width)
        assert found.shape == expected.shape and found.dtype == dtype
        torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("outside", ["zeros", "border"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 12, 17)])
def test_a_warp_and_its_gradients_are_those_of_affine_grid(outside, shape):
    """In float64: where a gradient jumps, between two pixels, float32 may round to either side."""
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.rand(4, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    results = []
    for ours in (True, False):
        image, matrix = images.clone().requires_grad_(), matrices(4, dtype=torch.float64).requires_grad_()
        if ours:
            warped = warp(image, matrix, outside)
        else:
            grid = F.affine_grid(matrix[:, :2], list(image.shape), align_corners=False)
            warped = F.grid_sample(image, grid, padding_mode=outside, align_corners=False)
        (warped * weights).sum().backward()
        results.append((warped.detach(), image.grad, matrix.grad))
    for found, expected in zip(*results, strict=True):
        assert expected.any()
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_in_float32_a_warp_differs_by_the_rounding_of_a_coordinate():
    """A coordinate differs by a millionth at most, which is 14 millionths of a pixel."""
    images = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    matrix = 0.5 * matrices(8)
    grid = F.affine_grid(matrix[:, :2], [8, 1, 28, 28], align_corners=False)
    expected = F.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(warp(images, matrix), expected, atol=28 / 2 * 1e-6, rtol=0)
