"""Small random changes of training images that leave their class as it is."""

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(images: Tensor, shift: float, flip: bool, source: torch.Generator) -> Tensor:
    """Images shifted and mirrored by chance, each in its own way.

    A pixel between two others is their bilinear mean and edges are continued, as in Keras's image generator.

    Args:
        images: float (N, C, H, W).
        shift: largest shift along each axis, a share of the side, uniform in both directions.
        flip: whether each image is mirrored left to right with probability 1/2.
        source: a CPU generator.

    Returns:
        Float (N, C, H, W); the images themselves where nothing is asked for.
    """
    if not shift and not flip:
        return images
    count = len(images)
    # Drawn whatever is asked for, so that one choice does not change the draws of the other.
    moves = (2 * torch.rand(count, 2, generator=source) - 1) * shift
    mirrored = torch.rand(count, generator=source) < 0.5
    if flip:
        chosen = mirrored.to(images.device)[:, None, None, None]
        images = torch.where(chosen, images.flip(3), images)
    if not shift:
        return images
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = 1
    # The grid goes from -1 to 1: a whole side is 2.
    maps[:, :, 2] = 2 * moves
    maps = maps.to(device=images.device, dtype=images.dtype)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
