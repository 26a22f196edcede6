"""PatternNet and PatternAttribution, and the patterns that both need."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from veridical.attributions.rule_based import EXACT, Overrides, RuleBased
from veridical.checks import check_choice
from veridical.rules import Application, RuleSet, Seed, Trace, affine_pattern, applications, gradient
from veridical.values import Target

Estimator = Literal["positive", "linear", "two-component"]
"""Over which samples a neuron's covariance runs: those in which it is active; all; or the active and the
inactive ones apart, with a pattern for each."""

Means = Literal["mixed", "conditional"]
"""The mean of y in the covariance: over all samples, or over the samples of the estimator."""

_BLOCK = 1 << 16
_FORMAT, _VERSION = "veridical patterns", 1
_REFIT = "fit them: patterns = veridical.fit_patterns(model, batches)"


@dataclass(frozen=True)
class PatternSettings:
    """How patterns were fitted; see `fit_patterns`."""

    estimator: Estimator = "positive"
    means: Means = "mixed"
    fold_batch_norm: bool = True

    def __post_init__(self) -> None:
        """Check the choices."""
        check_choice("estimator", self.estimator, get_args(Estimator))
        check_choice("means", self.means, get_args(Means))


@dataclass(frozen=True, eq=False, repr=False)
class Patterns:
    """The signal direction of every neuron of one network, as `fit_patterns` estimates it.

    A pattern a has the shape of its neuron's weights w and satisfies w . a = 1. Two `Patterns` are equal
    where their content is, wherever it lies.

    ```python
    patterns = vd.fit_patterns(model, loader)
    patterns.save("patterns.safetensors")
    explain = vd.method("pattern-attribution", patterns="patterns.safetensors")
    ```

    Attributes:
        active: by operation name, a tensor of the shape of the operation's weight (batch normalization: of
            its scale); the first dimension counts the neurons.
        inactive: the same for samples in which the neuron is not active; only of the two-component estimator,
            and there only for operations that a rectifier follows.
        settings: how they were fitted.
        images: how many images they were fitted on.
        weights: SHA-256 of the weights, batch normalization folded in, that they belong to.
    """

    active: Mapping[str, Tensor]
    inactive: Mapping[str, Tensor]
    settings: PatternSettings
    images: int
    weights: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole content."""
        return tensors_digest([*self._named().items()], json.dumps(self._facts(), sort_keys=True))

    @property
    def silent(self) -> dict[str, int]:
        """How many neurons of each operation have no pattern (a = 0): never active, or without variance.

        Operations that have none are absent. Relevance that reaches such a neuron ends there.
        """
        counts = {name: int((sizes == 0).sum()) for name, sizes in self._sizes.items()}
        return {name: count for name, count in counts.items() if count}

    @cached_property
    def _sizes(self) -> dict[str, Tensor]:
        """The length |a| of each pattern."""
        return {
            name: torch.linalg.vector_norm(a.reshape(len(a), -1), dim=1) for name, a in self.active.items()
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patterns) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return (
            f"Patterns({self.settings.estimator}, {self.settings.means} means, {len(self.active)} operations,"
            f" {self.images} images, {self.digest[:12]})"
        )

    def to(self, device: torch.device | str) -> "Patterns":
        """The same patterns on another device; without it, each call of a method moves them."""
        moved = ({name: a.to(device) for name, a in side.items()} for side in (self.active, self.inactive))
        active, inactive = moved
        return replace(self, active=active, inactive=inactive)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; one that is there is replaced in one step, or not at all."""
        from veridical.records import write_bytes  # loads pyarrow, which explaining does not need

        named = {name: a.detach().cpu().contiguous() for name, a in self._named().items()}
        facts = {"format": _FORMAT, "version": str(_VERSION), "digest": self.digest}
        write_bytes(Path(path), save(named, {**facts, "facts": json.dumps(self._facts())}))

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "Patterns":
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no file of patterns, of another version, truncated, or was changed.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"expected a file of patterns, got {path}, which is absent; {_REFIT}")
        try:
            with safe_open(str(path), framework="pt", device=str(device)) as file:
                facts = file.metadata() or {}
                if (facts.get("format"), facts.get("version")) != (_FORMAT, str(_VERSION)):
                    found = f"{facts.get('format')!r}, version {facts.get('version')!r}"
                    raise ValueError(f"its format is {found}, not {_FORMAT!r}, version '{_VERSION}'")
                named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            result = cls._assembled(named, json.loads(facts["facts"]))
            if result.digest != facts["digest"]:
                raise ValueError("its content does not match its digest")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"expected patterns that Patterns.save wrote, got {path} ({error}); {_REFIT}, and save them"
            ) from error
        return result

    def check(self, trace: Trace, *, same_weights: bool = True) -> None:
        """Check that a recorded network is the one that the patterns were fitted for.

        The weights are compared through w . a = 1, which the patterns of the right weights satisfy to
        rounding, for every neuron that is not silent. That reads the weights once, where a digest of a large
        network takes longer than explaining an image, and a cached one would miss an edit of `weight.data`.

        Args:
            trace: a forward pass of the network.
            same_weights: False compares names and shapes only.

        Raises:
            ValueError: if an operation has no pattern or one of another shape, or the weights are others.
        """
        found = applications(trace, self.settings.fold_batch_norm)
        for at in found:
            pattern = self.active.get(at.name)
            if pattern is None:
                raise ValueError(
                    f"expected patterns for every affine operation, got none for {at.name}; they were fitted "
                    f"for {_listed(self.active)}; {_REFIT} for this network"
                )
            if pattern.shape != at.affine.weight.shape:
                raise ValueError(
                    f"expected patterns of shape {tuple(at.affine.weight.shape)} for {at.name}, got "
                    f"{tuple(pattern.shape)}; they belong to another network; {_REFIT} for this one"
                )
            if same_weights and not _belongs(at.affine.weight.detach(), pattern, self._sizes[at.name]):
                raise ValueError(
                    f"expected the weights that the patterns were fitted for ({self.weights[:12]}), got "
                    f"others ({weights_digest(found)[:12]}; w . a is not 1 in {at.name}); {_REFIT} for "
                    "these, or use the patterns with any weights: any_weights=True"
                )

    def _named(self) -> dict[str, Tensor]:
        sides = (("active", self.active), ("inactive", self.inactive))
        return {f"{side}/{name}": a for side, patterns in sides for name, a in patterns.items()}

    def _facts(self) -> dict[str, object]:
        return {"settings": asdict(self.settings), "images": self.images, "weights": self.weights}

    @classmethod
    def _assembled(cls, named: Mapping[str, Tensor], facts: Mapping[str, object]) -> "Patterns":
        sides: dict[str, dict[str, Tensor]] = {"active": {}, "inactive": {}}
        for key, tensor in named.items():
            side, name = key.split("/", 1)
            sides[side][name] = tensor
        settings = PatternSettings(**facts["settings"])  # type: ignore[arg-type]
        return cls(**sides, settings=settings, images=facts["images"], weights=facts["weights"])  # type: ignore[arg-type]


def tensors_digest(named: Iterable[tuple[str, Tensor]], prefix: str = "") -> str:
    """SHA-256 of tensors with their names, types and shapes; their order and device do not matter."""
    digest = hashlib.sha256(prefix.encode())
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_digest(found: Iterable[Application]) -> str:
    """SHA-256 of the weights of affine operations, as the rules see them."""
    return tensors_digest((at.name, at.affine.weight) for at in found)


def row_blocks(values: Tensor) -> tuple[Tensor, ...]:
    """Views of a few rows each, (rows, the rest flattened), small enough for a processor's cache."""
    rows = values.reshape(len(values), -1)
    count = max(1, _BLOCK // rows.shape[1]) if values.device.type == "cpu" else len(rows)
    return torch.split(rows, count)


def row_products(weight: Tensor, pattern: Tensor) -> Tensor:
    """The inner product w . a of each neuron, in the precision of the pattern."""
    pairs = zip(row_blocks(weight), row_blocks(pattern), strict=True)
    return torch.cat([(w.to(a.dtype) * a).sum(1) for w, a in pairs])


def _belongs(weight: Tensor, pattern: Tensor, size: Tensor) -> bool:
    """Whether w . a = 1 to rounding, for every neuron whose pattern has a length |a| that is not 0."""
    precision = 100 * max(torch.finfo(weight.dtype).eps, torch.finfo(pattern.dtype).eps)
    distance = (row_products(weight, pattern.to(weight.device)) - 1).abs()
    size = size.to(distance)
    far = (~(distance <= precision) & (size > 0)).nonzero().flatten()
    if len(far) == 0:
        return True
    # the error of a long inner product grows with |w| |a|
    lengths = torch.linalg.vector_norm(weight[far].reshape(len(far), -1).to(size.dtype), dim=1)
    return bool((distance[far] <= precision * lengths * size[far]).all())


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")


class _PatternBased(RuleBased):
    """What the two methods share: their options, and the checks of the patterns."""

    patterns: Patterns | str | Path | None
    any_weights: bool
    seed: Seed
    overrides: Overrides

    def __post_init__(self) -> None:
        """Check the start, and read the patterns where they are a path."""
        check_choice("seed", self.seed, get_args(Seed))
        if isinstance(self.patterns, str | Path):
            object.__setattr__(self, "patterns", Patterns.load(self.patterns))
        if not isinstance(self.patterns, Patterns | None):
            raise TypeError(
                f"expected patterns as Patterns or a path, got {type(self.patterns).__name__}; {_REFIT}"
            )

    @property
    @abstractmethod
    def name(self) -> str:
        """The method's name."""

    def with_logits(self, model: nn.Module, inputs: Tensor, target: Target = None) -> tuple[Tensor, Tensor]:
        """The relevance and the logits (N, K) of the one forward pass."""
        self._given()
        return super().with_logits(model, inputs, target)

    def _given(self) -> Patterns:
        if not isinstance(self.patterns, Patterns):
            raise ValueError(
                f"expected patterns for {self.name}, got none; fit them on images without labels: "
                f'method("{self.name}", patterns=veridical.fit_patterns(model, batches))'
            )
        return self.patterns

    def _rules(self, weighted: bool) -> RuleSet:
        given = self.patterns if isinstance(self.patterns, Patterns) else None
        active, inactive = (given.active, given.inactive) if given else ({}, {})
        complete = RuleSet(
            self.name, affine_pattern(active, inactive, weighted=weighted),
            {**EXACT, "activation": gradient}, frozenset({"convolution", "linear", "batch_norm"}),
            seed=self.seed, fold_batch_norm=given.settings.fold_batch_norm if given else True,
            overrides=self.overrides, lean=True,
        )  # fmt: skip

        def bind(trace: Trace) -> RuleSet:
            self._given().check(trace, same_weights=not self.any_weights)
            return complete

        return replace(complete, bind=bind)


@dataclass(frozen=True)
class PatternNet(_PatternBased):
    """The signal that the class's score responds to, projected back to the image (Kindermans et al. 2018).

    R_in = A^T R at convolutions, linear layers and batch normalization: each neuron's pattern a, the
    direction in which its input varies with its output, in the place of its weights, which also cancel what
    distracts. Activations: the gradient, R f'(x). Max pooling: winner takes all. Sums: R to each. Average
    pooling, products, attention and other normalizations: gradient. The bias has no part.
    A linear network of one layer gives the pattern of the class, whatever the image is.

    Args:
        patterns: fitted by `fit_patterns`, or the path of a file that `Patterns.save` wrote. Without them, a
            call is refused.
        any_weights: use the patterns on weights that they were not fitted for; otherwise refused. The
            package's randomization test does so by itself, as that of Sixt et al. 2020 did.
        seed: starting relevance of the class: 1, or the logit's value (Kindermans' signal, Sixt 2020).
        overrides: pairs of a function's name and "gradient" or "pass", in the place of the operation's rule.

    Source:
        Kindermans et al. 2018; Sixt et al. 2020, section 2.2 (equations 9 and 10) and appendix C.

    Deviations:
        Sixt's equation 10 has no mask at activations; the library that it ran has, and so has this.
        That library also scales each spatial tensor of relevance to a largest absolute value of 1 on its way
        down. This does not: the direction of a map is the same in a chain of layers, the magnitudes of
        different layers can be compared, and the branches of a residual network keep their proportions.
        Neither paper treats batch normalization, residual networks or attention. Folded into the layer
        before it, a batch normalization shares that layer's patterns; alone, the definition gives the pattern
        1 / scale, which is the same map.
        Convention sixt2020: seed "value", any_weights True.

    Peers:
        None that can be compared: iNNvestigate has dropped the method and its patterns, TorchLRP replaces the
        layers of sequential networks. Checked against closed forms and explicitly unfolded patches in tests.
    """

    patterns: Patterns | str | Path | None = None
    any_weights: bool = False
    seed: Seed = "one"
    overrides: Overrides = ()

    @property
    def name(self) -> str:
        """The method's name."""
        return "patternnet"

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules."""
        return self._rules(weighted=False)


@dataclass(frozen=True)
class PatternAttribution(_PatternBased):
    """How much each input value's signal contributes to the class's score (Kindermans et al. 2018).

    R_in = (W * A)^T R at convolutions and linear layers, the elementwise product of weights and patterns; as
    w . a = 1, each neuron hands on all its relevance (but for what falls on zero padding). A batch
    normalization that stands alone passes its relevance through (its pattern is 1 / scale). Activations: the
    gradient, R f'(x). Max pooling: winner takes all. Sums: R to each. Average pooling, products, attention
    and other normalizations: gradient. The bias has no part.

    Args:
        patterns: fitted by `fit_patterns`, or the path of a file that `Patterns.save` wrote. Without them, a
            call is refused.
        any_weights: use the patterns on weights that they were not fitted for; otherwise refused. The
            package's randomization test does so by itself, as that of Sixt et al. 2020 did.
        seed: starting relevance of the class: 1, or the logit's value (Dombrowski 2019, Sixt 2020).
        overrides: pairs of a function's name and "gradient" or "pass", in the place of the operation's rule.

    Source:
        Kindermans et al. 2018; Dombrowski et al. 2019, section 2; Sixt et al. 2020, section 2.2 (equation 11)
        and appendix C.

    Deviations:
        Those of PatternNet: masks at activations, no scaling of tensors on the way, batch normalization.
        The residual addition hands the whole relevance to each branch, as a gradient does; no paper says.
        Conventions dombrowski2019 and sixt2020: seed "value"; the latter also any_weights True. Dombrowski's
        patterns were fitted on outputs with the bias and Sixt's without; that makes no difference, see
        `fit_patterns`.

    Peers:
        None that can be compared; see PatternNet.
    """

    patterns: Patterns | str | Path | None = None
    any_weights: bool = False
    seed: Seed = "one"
    overrides: Overrides = ()

    @property
    def name(self) -> str:
        """The method's name."""
        return "pattern-attribution"

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules."""
        return self._rules(weighted=True)
