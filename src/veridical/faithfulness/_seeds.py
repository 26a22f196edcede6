"""Independent generators for numbered things, so that no draw depends on how many others there are."""

import torch


def generator(seed: int, index: int) -> torch.Generator:
    """The local CPU generator of the thing with that index; independent between indices and between seeds."""
    source = torch.Generator().manual_seed(seed)
    own = 0
    # One draw after another: blocks of draws may differ in their first elements.
    for _ in range(index + 1):
        own = int(torch.randint(2**62, (), generator=source))
    return torch.Generator().manual_seed(own)
