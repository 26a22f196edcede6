"""Which built-in methods can explain a network, told from one recorded forward pass."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from veridical.attributions import (
    GradCam,
    GuidedBackprop,
    GuidedGradCam,
    PatternAttribution,
    PatternNet,
    method,
    methods,
)
from veridical.attributions.feature_maps import find_layer
from veridical.rules import RuleSet, Trace, check_rules, coverage, record
from veridical.values import Explainer

State = Literal["runs", "needs patterns", "refused"]

_PATTERNS = "fit them on images without labels: veridical.fit_patterns(model, batches)"


@dataclass(frozen=True)
class Applicability:
    """Whether a method can explain a network.

    Attributes:
        method: its name.
        state: "runs", "needs patterns" (it runs once they are fitted), or "refused".
        reason: why it does not run.
        modified: how many operations it treats otherwise than the gradient does; 0 for the gradient's family.
    """

    method: str
    state: State
    reason: str = ""
    modified: int = 0


@dataclass(frozen=True)
class Recorded:
    """What one forward pass shows of a network.

    Attributes:
        logits: (N, K) of the images.
        operations: how many operations depend on the image.
        normalizes: whether the first of them shift or scale the image by constants.
        ends_in: the name of the last function that is no reshaping, such as "linear" or "softmax".
        methods: what each built-in method does on the network.
    """

    logits: Tensor
    operations: int
    normalizes: bool
    ends_in: str
    methods: tuple[Applicability, ...]


def check_model(model: nn.Module, inputs: Tensor) -> Recorded:
    """Record a network once and say which built-in methods, with their default options, can explain it.

    A method that is said to run can still give a map of zeros or an overflow on certain weights; that takes
    a run to see.

    Args:
        model: in evaluation mode.
        inputs: images (N, C, H, W) as the network takes them.

    Returns:
        What was recorded.

    Raises:
        TypeError: if inputs or logits are of the wrong type.
        ValueError: if they have a wrong shape or value, or the network hides its operations: then no method
            can explain it.
    """
    trace = record(model, inputs)
    shown = [one for one in trace.operations if one.kind != "structure"]
    first = next((one for one in shown if not (one.on_image and one.kind in ("shift", "scale"))), None)
    return Recorded(
        logits=trace.logits.detach(),
        operations=len(trace.operations),
        normalizes=bool(shown) and first is not shown[0],
        ends_in=shown[-1].base if shown else "",
        methods=tuple(_judged(trace, name) for name in methods()),
    )


def _judged(trace: Trace, name: str) -> Applicability:
    explainer = method(name)
    try:
        modified = _modified(trace, explainer)
    except (ValueError, TypeError) as error:
        return Applicability(name, "refused", str(error))
    if isinstance(explainer, PatternNet | PatternAttribution):
        return Applicability(name, "needs patterns", _PATTERNS, modified)
    return Applicability(name, "runs", modified=modified)


def _modified(trace: Trace, explainer: Explainer) -> int:
    """How many operations the method modifies.

    Raises:
        ValueError: if it lacks a rule or a layer.
    """
    if isinstance(explainer, GradCam | GuidedGradCam):
        find_layer(trace, explainer.layer)
    if isinstance(explainer, GuidedGradCam):
        explainer = GuidedBackprop()
    rules: RuleSet | None = getattr(explainer, "rules", None)
    if rules is None:
        return 0
    check_rules(trace, rules)
    return sum(row.treatment == "modified" for row in coverage(trace, rules))
