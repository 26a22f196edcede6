"""Tangent spaces by forward mode against one backward pass for each value of the image, and 10,000 of them.

The weights are those of the published beta-TCVAE where the folder VERIDICAL_DATA (or shared/data beside the
checkout) has them, and random ones of the same architecture elsewhere: the work is the same. The race is by
processor time, which a busy machine does not change much; the whole set by the clock, with both in the notes.
"""

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import timing
from veridical.manifold import TCVAE, load_tcvae, tangent_spaces

IMAGES, SECONDS, TIMES = 10_000, 120.0, 20.0
WEIGHTS = Path(__file__).parents[2] / "shared" / "data"


def decoder() -> nn.Module:
    path = Path(os.environ.get("VERIDICAL_DATA", WEIGHTS)) / "models" / "mnist_btcvae.pt"
    if path.is_file():
        return load_tcvae(path).decoder
    torch.manual_seed(0)
    return TCVAE().eval().decoder


def by_pixel(network: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    """Bases (n, d, k) and ranks: one backward pass for each value of all images, then an SVD."""
    points = z.detach().requires_grad_()
    images = network(points).flatten(1)
    rows = [
        torch.autograd.grad(images[:, at].sum(), points, retain_graph=True)[0]
        for at in range(images.shape[1])
    ]
    u, values, _ = torch.linalg.svd(torch.stack(rows, dim=1), full_matrices=False)
    limit = 1024 * torch.finfo(values.dtype).eps
    return u, (values > limit * values[:, :1]).sum(1)


def measure(rounds: int = 1, subset: int = 16, images: int = IMAGES) -> list[timing.Claim]:
    """The race on a subset, in float64 on both sides; then the whole set by the clock."""
    single, z = decoder(), torch.randn(images, 10, generator=torch.Generator().manual_seed(0))
    double, few = decoder().double(), z[:subset]
    runs = {
        "forward": lambda: double(few.double()).detach(),
        "one backward pass a value": lambda: by_pixel(double, few.double()),
        "one image at a time": lambda: [by_pixel(double, one.double()) for one in few[:2].split(1)],
        "veridical": lambda: tangent_spaces(single, few),
    }
    seconds = timing.race(runs, rounds=rounds, clock=time.process_time)
    seconds["one image at a time"] *= subset / 2
    ours, (theirs, rank) = tangent_spaces(single, few), by_pixel(double, few.double())
    cosine = torch.linalg.svdvals(ours.basis.flatten(2) @ theirs).min()
    same = bool((ours.rank == rank).all())
    notes = {
        "one image at a time": "as the authors' code runs it; two images, scaled to the subset",
        "veridical": f"the same ranks: {same}; every cosine between the spaces above {cosine - 1e-12:.10f}",
    }
    race = timing.compared(
        f"tangent spaces, {subset} images of MNIST32", seconds, of="veridical",
        to="one backward pass a value",
        target=1 / TIMES, notes=notes,
    )  # fmt: skip
    return [race, _whole(single, z)]


def _whole(network: nn.Module, z: Tensor) -> timing.Claim:
    """All images by the clock, against two minutes."""
    passes = timing.race({"forward": lambda: network(z[:1000]).detach()}, rounds=1)["forward"] * len(z) / 1000
    begin, processor = time.perf_counter(), time.process_time()
    ranks = tangent_spaces(network, z).rank
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    found = timing.Claim(
        subject=f"{len(z)} tangent spaces of MNIST32, k = 10, float64",
        rivals=f"veridical / {SECONDS:g} seconds",
        ratio=round(seconds / SECONDS, 3),
        target=1.0,
        forward_passes={"veridical": round(seconds / passes, 2)},
        seconds={"veridical": round(seconds, 2)},
        notes={"veridical": f"ranks {sorted(set(ranks.tolist()))}; {processor:.0f} s of processor time"},
    )
    timing.show(found)
    return found
