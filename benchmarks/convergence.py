"""The cosine convergence of one method, 200 images and 5 vectors, on the CIFAR ResNet-20 within a minute."""

import io
import os
import time
import zipfile
from functools import partial
from pathlib import Path

import torch
from tests.networks_real import photograph, trained_resnet20
from torch import Tensor

from benchmarks import subjects, timing
from veridical.attributions import method
from veridical.faithfulness import cosine_convergence

ROOT = Path(__file__).resolve().parents[1]
IMAGES, VECTORS = 200, 5
SECONDS = 60.0
METHODS = ("lrp-zplus", "gradient")


def measure(rounds: int = 1) -> list[timing.Claim]:
    """Seconds of all threads together: the clock on the wall of an idle machine shows no more than these."""
    folder = Path(os.environ.get("VERIDICAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        print(f"left out: needs the optional data folder; {folder} is absent (set VERIDICAL_DATA)")
        return []
    model, x = trained_resnet20(folder), photographs(folder)
    known = timing.race({"forward": lambda: subjects.forward(model, x)}, rounds=3, clock=time.process_time)
    claims = []
    for name in METHODS:
        run = partial(cosine_convergence, model, x, method(name), vectors=VECTORS)
        begin = time.perf_counter()
        taken = timing.race({"veridical": run}, rounds=rounds, warmup=0, clock=time.process_time)
        wall = (time.perf_counter() - begin) / rounds
        subject = f"cosine convergence, {name}, ResNet-20, {IMAGES} images, {VECTORS} vectors, all layers"
        seconds = known | taken | {"a minute": SECONDS}
        note = {"veridical": f"{wall:.1f} s on the wall, load {os.getloadavg()[0]:.1f}"}
        claims.append(
            timing.compared(subject, seconds, of="veridical", to="a minute", target=1.0, notes=note)
        )
    return claims


def photographs(folder: Path) -> Tensor:
    """Evenly spaced test images of CIFAR-10, (IMAGES, 3, 32, 32)."""
    with zipfile.ZipFile(folder / "cifar10" / "test.zip") as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // IMAGES][:IMAGES]
        return torch.cat([photograph(io.BytesIO(file.read(name)), 32) for name in chosen])
