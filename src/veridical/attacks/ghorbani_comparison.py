"""Which attack comes nearer to a target map at what price: supplement A.2 of Dombrowski et al. 2019."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from veridical.attacks.ghorbani import GhorbaniResult, GhorbaniSettings, ghorbani, top_mask
from veridical.attacks.manipulation import manipulate
from veridical.attacks.outcome import Manipulation
from veridical.attacks.preconditions import checked_map
from veridical.attacks.settings import ManipulationSettings
from veridical.checks import check_inputs
from veridical.metrics import Interval, bootstrap_interval, pearson
from veridical.values import Explainer, Target


@dataclass(frozen=True)
class AttackComparison:
    """Both attacks on the same pairs; maps and outputs are of the unmodified network.

    Args:
        manipulation: equation 4 of Dombrowski et al. 2019.
        ghorbani: the attack "region" of Ghorbani et al. 2019.
        region: the region (N, H, W) that it was to fill, 1 inside.
        region_share: the share of the target map's pixels that make the region.
    """

    manipulation: Manipulation
    ghorbani: GhorbaniResult
    region: Tensor
    region_share: float

    def measurements(self) -> dict[str, Tensor]:
        """What is compared, one value a pair, float64 (N,).

        The correlation with the target map, the magnitude of the change of the probability of the class
        predicted for the clean image and the largest change of a value, each for "manipulation" and
        "ghorbani" and as their "difference", the former minus the latter.
        """
        ours, theirs = self.manipulation, self.ghorbani
        pairs = {
            "pcc_to_target": (
                ours.similarity.to_target.pcc,
                pearson(theirs.saliency, ours.target_map),
            ),
            "probability_change": (
                ours.output_change.probability_change.abs(),
                theirs.output_change.probability_change.abs(),
            ),
            "linf": (ours.image_change.linf, theirs.image_change.linf),
        }
        found: dict[str, Tensor] = {}
        for name, (first, second) in pairs.items():
            values = {"manipulation": first, "ghorbani": second, "difference": first - second}
            found |= {f"{name}_{whose}": value.double().cpu() for whose, value in values.items()}
        return found

    def intervals(self, *, level: float = 0.99, seed: int = 0) -> dict[str, Interval]:
        """The median of every measurement over the pairs, with its bootstrap interval."""
        return {
            name: bootstrap_interval(values.numpy(), level=level, seed=seed)
            for name, values in self.measurements().items()
        }


def compare_with_ghorbani(  # noqa: PLR0913 - each of these names a different thing
    model: nn.Module,
    inputs: Tensor,
    target_map: Tensor,
    *,
    explainer: Explainer,
    target: Target = None,
    settings: ManipulationSettings | None = None,
    ghorbani_settings: GhorbaniSettings | None = None,
    region_share: float = 0.1,
    memory_gib: float | None = None,
) -> AttackComparison:
    """Run `manipulate` and the attack "region" of `ghorbani` on the same pairs.

    The region is the target map's largest pixels. The paper gives neither the region nor step, number of
    steps and budget: 10 % of the pixels and the defaults of `GhorbaniSettings` are choices of ours.

    Args:
        model: the network; left as it was.
        inputs: clean images (N, C, H, W).
        target_map: maps aimed at (N, H, W), non-negative.
        explainer: the method under attack.
        target: the explained class; None for the predicted one.
        settings: of `manipulate`; None for its default.
        ghorbani_settings: of `ghorbani`; None for its default with the bounds of `settings`.
        region_share: the share of the pixels in the region, in (0, 1].
        memory_gib: of both attacks; see `manipulate`.

    Raises:
        KeyboardInterrupt: where either attack is interrupted: half of a comparison compares nothing.
        TypeError: where an argument is of the wrong type.
        ValueError: where the attack of `ghorbani_settings` is not "region", the bounds of the two differ, the
            share is out of range, or either attack refuses its arguments.
    """
    bounds = None if settings is None else settings.bounds
    if ghorbani_settings is None:
        ghorbani_settings = GhorbaniSettings(bounds=bounds)
    if ghorbani_settings.bounds != bounds:
        raise ValueError(
            f"expected the same bounds for both attacks, got {bounds} and {ghorbani_settings.bounds}; "
            "changes of the image are measured in them"
        )
    if ghorbani_settings.attack != "region":
        raise ValueError(
            f"expected the attack 'region', got {ghorbani_settings.attack!r}; only it has a target to aim at"
        )
    if not 0 < region_share <= 1:
        raise ValueError(f"expected region_share in (0, 1], got {region_share}; 0.1 is 10 % of the pixels")
    check_inputs(inputs)
    region = top_mask(checked_map(target_map, inputs), region_share)
    ours = manipulate(
        model,
        inputs,
        target_map,
        explainer=explainer,
        target=target,
        settings=settings,
        memory_gib=memory_gib,
    )
    if ours.interrupted:
        raise KeyboardInterrupt
    theirs = ghorbani(
        model,
        inputs,
        explainer=explainer,
        region=region,
        target=target,
        settings=ghorbani_settings,
        memory_gib=memory_gib,
    )
    if theirs.interrupted:
        raise KeyboardInterrupt
    return AttackComparison(ours, theirs, region, region_share)
