"""Measure all claims, or those named: `python -m benchmarks.run gradient zplus --threads 2`."""

import argparse
import os
import warnings
from collections.abc import Callable

import torch

from benchmarks import (
    attack_batch,
    attack_compiled,
    attack_memory,
    attack_step,
    averages,
    convergence,
    curvature,
    gradient,
    grouped,
    manipulation,
    memory,
    methods,
    quantus,
    tangent,
    targets,
    timing,
    zplus,
)

CLAIMS: dict[str, Callable[..., list[timing.Claim]]] = {
    "gradient": gradient.measure,
    "zplus": zplus.measure,
    "averages": averages.measure,
    "manipulation": manipulation.measure,
    "convergence": convergence.measure,
    "attack-step": attack_step.measure,
    "grouped": grouped.measure,
    "attack-batch": attack_batch.measure,
    "attack-memory": attack_memory.measure,
    "attack-compiled": attack_compiled.measure,
    "targets": targets.measure,
    "memory": memory.measure,
    "methods-vgg16": methods.on_vgg,
    "methods-resnet50": methods.on_resnet,
    "quantus": quantus.measure,
    "tangent": tangent.measure,
    "curvature": curvature.measure,
}


def main() -> int:
    """Print and store the figures; 1 where a target is missed and --strict was given."""
    parser = argparse.ArgumentParser(description="Speed side by side with the peers.")
    parser.add_argument(
        "claims", nargs="*", metavar="CLAIM", help=f"any of {', '.join(CLAIMS)}; all by default"
    )
    parser.add_argument("--rounds", type=int, default=0, help="runs of each rival, the fastest counts")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    options = parser.parse_args()
    unknown = sorted(set(options.claims) - set(CLAIMS))
    if unknown:
        parser.error(f"expected any of {', '.join(CLAIMS)}, got {', '.join(unknown)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    print(f"{torch.get_num_threads()} threads")
    missed = 0
    for name in options.claims or CLAIMS:
        claims = CLAIMS[name](**({"rounds": options.rounds} if options.rounds else {}))
        timing.store(name, claims)
        missed += sum(claim.kept is False for claim in claims)
    return 1 if options.strict and missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
