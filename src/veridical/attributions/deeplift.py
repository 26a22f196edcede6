"""DeepLIFT: contributions of the image's difference from a reference."""

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from itertools import repeat
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from veridical.attributions.rule_based import Overrides, RuleBased
from veridical.checks import check_choice, check_inputs
from veridical.rules import RuleSet, Trace, affine_gradient, gradient
from veridical.rules.deeplift import affine_ablation, affine_decoupled, exchange, single_rules
from veridical.rules.deeplift_pairs import Pairing, pair
from veridical.rules.deeplift_split import Parts, affine_split, doubled, split_rules
from veridical.values import FixedTensor, Target

MaxPool = Literal["exchange", "gradient"]
"""Max pooling: complete, by the winners of the image and of the reference; or the gradient at the image."""

Reference = Literal["zeros", "blur"] | FixedTensor
"""What the image is compared with: zeros, its own blur, one image for all (C, H, W), or one for each."""

_CHANGED = frozenset({"activation", "normalization", "softmax", "product", "matmul"})
_AFFINE = frozenset({"convolution", "linear", "batch_norm"})


_VALUES = 2**18
"""Values of the images that go through in one pass in any case."""


@dataclass(frozen=True)
class _DeepLift(RuleBased):
    """What the three have in common; a Tensor given as reference is wrapped in a FixedTensor."""

    reference: Reference | Tensor = "zeros"
    blur: float = 10.0
    max_pool: MaxPool = "exchange"
    fold_batch_norm: bool = True
    overrides: Overrides = ()

    # Large images in one pass where nothing is differentiated: two passes are kept, this bounds their memory.
    _together: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            TypeError: if the reference is neither a name nor a tensor.
            ValueError: if an option is out of range, or the reference is no finite image or batch.
        """
        check_choice("max_pool", self.max_pool, get_args(MaxPool))
        if not 0 < self.blur < math.inf:
            raise ValueError(f"expected blur as a positive number of pixels, got {self.blur}; try 10")
        if isinstance(self.reference, str):
            check_choice("reference", self.reference, ("zeros", "blur"))
            return
        given = self.reference.tensor if isinstance(self.reference, FixedTensor) else self.reference
        if not isinstance(given, Tensor):
            raise TypeError(
                f'expected reference as "zeros", "blur" or a tensor, got {type(given).__name__}; '
                "one image (C, H, W) serves all images, a batch (N, C, H, W) has one for each"
            )
        if not given.is_floating_point():
            raise TypeError(
                f"expected a floating point reference, got {given.dtype}; preprocess it as the images are"
            )
        if given.dim() not in (3, 4):
            raise ValueError(
                f"expected a reference of shape (C, H, W) or (N, C, H, W), got {tuple(given.shape)}"
            )
        check_inputs(given if given.dim() == 4 else given[None])
        object.__setattr__(self, "reference", FixedTensor(given))

    def reference_for(self, inputs: Tensor) -> Tensor:
        """The reference of each image, (N, C, H, W); or (1, C, H, W) where it is the same for all.

        Raises:
            ValueError: if the given reference has another shape than the images.
        """
        if isinstance(self.reference, str):
            return _blurred(inputs, self.blur) if self.reference == "blur" else torch.zeros_like(inputs[:1])
        given = self.reference.tensor if isinstance(self.reference, FixedTensor) else self.reference
        images = given.to(inputs).reshape(-1, *given.shape[-3:])
        if images.shape[1:] != inputs.shape[1:] or len(images) not in (1, len(inputs)):
            raise ValueError(
                f"expected a reference of shape {tuple(inputs.shape[1:])} or {tuple(inputs.shape)}, got "
                f"{tuple(given.shape)}; give one image for all, or one for each image of the batch"
            )
        return images

    def with_logits(self, model: nn.Module, inputs: Tensor, target: Target = None) -> tuple[Tensor, Tensor]:
        """The contributions and the logits (N, K); the reference's shape is checked before any work."""
        check_inputs(inputs)
        of_each = len(self.reference_for(inputs)) > 1 and isinstance(self.reference, FixedTensor)
        wrong = isinstance(target, Tensor) and target.shape != inputs.shape[:1]  # refused below
        together = max(self._together, _VALUES // inputs[0].numel())
        if inputs.requires_grad or len(inputs) <= together or of_each or wrong:
            return super().with_logits(model, inputs, target)
        rows = target.split(together) if isinstance(target, Tensor) else repeat(target)
        parts = [
            super(_DeepLift, self).with_logits(model, part, row)
            for part, row in zip(inputs.split(together), rows, strict=False)
        ]
        relevance, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        return relevance, logits

    @property
    def rules(self) -> RuleSet:
        """The method's propagation rules; they are completed with the pass of the reference."""

        def bind(trace: Trace) -> RuleSet:
            return self._paired(pair(trace, self.reference_for(trace.inputs)))

        return replace(self._paired(Pairing()), bind=bind)

    @abstractmethod
    def _paired(self, pairs: Pairing) -> RuleSet:
        """The rules at work on a pairing."""

    def _changed(self) -> frozenset[str]:
        return _CHANGED | {"max_pool"} if self.max_pool == "exchange" else _CHANGED


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of each channel; the border's values go on outside."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])


@dataclass(frozen=True)
class DeepLiftRescale(_DeepLift):
    """DeepLIFT with the Rescale rule: contributions m (x - x0), m being chord slopes where gradients have f'.

    f_k(x) - f_k(x0) is distributed over the image's differences from a reference x0: the contributions of the
    image, and of each layer that everything passes through, sum to it. Activations: m_in = m (y - y0) / (x -
    x0). Affine maps, sums, average pooling, reshaping: m_in = W^T m. Published rules carry a multiplier m+
    for positive and one m- for negative parts of a difference. Both start with 1 at the class; the linear
    rule W+^T m+ + W-^T m- with all its masks is W^T m where they are equal, and no other rule of this method
    makes them differ. So one multiplier is exact, and the backward pass is one gradient. Max pooling
    ("exchange"): where an output rose, its contribution goes to the image's winner, where it fell, to the
    reference's; both changed at least as much, so that nothing is lost and nothing divided by 0. Products and
    matrix products of two branches: the mean of the gradients at both ends. Quotients, normalization layers
    and softmax: their elementary steps, each by these rules, in closed form (`rules/deeplift_norm.py`).

    Args:
        reference: "zeros" (the mean image after the usual normalization), "blur" (each image's own Gaussian
            blur), a tensor (C, H, W) or (1, C, H, W) for all images, such as the mean image, or (N, C, H, W)
            with one for each image of a call (tests that split or fold batches need one of the other forms).
        blur: standard deviation of the blur in pixels.
        max_pool: "exchange", which is complete, or "gradient", the image's winner takes all (Sixt's code).
        fold_batch_norm: treat a batch normalization and the layer before it as one affine map. Here the map
            stays the same either way; it decides at which tensor a layer's contributions are read.
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.

    Source:
        Shrikumar et al. 2017, sections 3.2 and 3.5; Sixt et al. 2020, section 2.2; products: the Shapley
        value of two players, Lundberg and Lee 2017; path means: Sundararajan et al. 2017; max pooling: as in
        Captum. The closed forms at softmax and normalization layers are ours.

    Deviations:
        Shrikumar et al. and their package have no rule for products, softmax and normalization layers, and
        route max pooling by the image's winner, as convention "sixt2020" does: complete only where the
        reference has one value in each window. Where |x - x0| is at most 1e-7 the slope is the derivative at
        the reference, as in their package; ours takes 1e-7 of the larger of the values where all are below 1,
        so that networks with faint activations, as random weights give, stay complete. Local response
        normalization has no closed form here, but the mean gradient on the path from the reference at 16
        Gauss-Legendre nodes (error of completeness below 1e-10 in float64 on a small network). A choice that
        depends on the image (`where`, `masked_fill`, an index) is the image's own: incomplete where the
        reference chooses otherwise. All else is complete to rounding.

    Peers:
        Captum (DeepLift) to 1e-5 on modules of convolutions, linear layers, activations, average pooling, and
        max pooling without overlap between affine layers. Next to an activation Captum's rule of max pooling
        is lost, because both hook the tensor between them: behind an activation it is our
        max_pool="gradient". Where the windows of a max pooling overlap it loses contributions; it does not
        see functional activations.
    """

    @property
    def name(self) -> str:
        """deeplift-rescale."""
        return "deeplift-rescale"

    def _paired(self, pairs: Pairing) -> RuleSet:
        def read(tensor: Tensor, multipliers: Tensor) -> Tensor:
            return multipliers * pairs.difference(tensor)

        rules = single_rules(pairs, exchange if self.max_pool == "exchange" else lambda _: gradient)
        return RuleSet(
            self.name, affine_gradient, rules, self._changed(), fold_batch_norm=self.fold_batch_norm,
            overrides=self.overrides, lean=True, read=read,
        )  # fmt: skip


@dataclass(frozen=True)
class DeepLiftRevealCancel(_DeepLift):
    """DeepLIFT with the RevealCancel rule, which separates positive from negative contributions.

    Each difference from the reference has a positive and a negative part, d = C+ + C-, with multipliers m+
    and m-; both start with 1 at the class. Affine maps: C+ collects the positive products of weights and
    differences, C- the negative; the multiplier of an input is W+^T m+ + W-^T m- where it is above its
    reference, W-^T m+ + W+^T m- below, W^T (m+ + m-)/2 where equal. Activations (any of one variable): dy+ =
    (f(x0 + C+) - f(x0) + f(x) - f(x0 + C-)) / 2, the mean effect of C+ before and after C-, dy- likewise (the
    Shapley value of the two parts); m+_in = m+ dy+/C+, m-_in = m- dy-/C-. Sums: a linear layer with weights
    1. BatchNorm and constant factors: each part by itself; a negative factor exchanges m+ and m-. Average
    pooling, reshaping, concatenation: each part by itself. Max pooling, products, softmax, normalization
    layers: the rule of deeplift-rescale for the multiplier m+ where the output rose, m- where it fell.
    Contributions m+ C+ + m- C-; at the image C+ and C- are the difference itself, by its sign. They sum to
    f_k(x) - f_k(x0) at the image and at each layer that everything passes through.

    Args:
        reference: "zeros" (the mean image after the usual normalization), "blur" (each image's own Gaussian
            blur), a tensor (C, H, W) or (1, C, H, W) for all images, such as the mean image, or (N, C, H, W)
            with one for each image of a call (tests that split or fold batches need one of the other forms).
        blur: standard deviation of the blur in pixels.
        max_pool: "exchange", which is complete, or "gradient", the image's winner takes all (Sixt's code).
        fold_batch_norm: treat a batch normalization and the layer before it as one affine map. The map stays
            the same either way: a negative factor exchanges the signs of weights as it exchanges m+ and m-.
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.

    Source:
        Shrikumar et al. 2017, sections 3.4 and 3.5.3 and appendix; Sixt et al. 2020, section 2.2, eq. 13, and
        their code (RevealCancel at all activations, sums as a linear layer).

    Deviations:
        Shrikumar et al. recommend RevealCancel for dense and Rescale for convolutional layers; Sixt et al.
        and ours use it everywhere. Denominators within 0.5e-7 of zero get 1e-7 of their sign, as in their
        package; ours scales both with values below 1, as in deeplift-rescale. Where an activation's input
        equals its reference the multipliers are 0, and so is their derivative. Max pooling, products, softmax
        and normalization layers have no published rule that splits; ours splits their output's difference by
        its sign. For max pooling by the gradient their package routes m+ and m- separately: the same wherever
        an affine layer or a sum is what reads the pooled values.

    Peers:
        The published rules in explicit loops in numpy, to 1e-10 (test_deeplift_golden.py), and the published
        minimum-of-two-inputs example; the deeplift package itself needs TensorFlow 1. Captum and Zennit do
        not have the rule.
    """

    _together: ClassVar[int] = 1  # both passes keep all of their values

    @property
    def name(self) -> str:
        """deeplift-reveal-cancel."""
        return "deeplift-reveal-cancel"

    def _paired(self, pairs: Pairing) -> RuleSet:
        parts = Parts(pairs)
        rules = split_rules(parts, exchange if self.max_pool == "exchange" else lambda _: gradient)
        return RuleSet(
            self.name, affine_split(pairs), rules, self._changed() | _AFFINE | {"sum"},
            fold_batch_norm=self.fold_batch_norm, overrides=self.overrides, lift=doubled,
            read=parts.contributions,
        )  # fmt: skip


@dataclass(frozen=True)
class DeepLiftAblation(_DeepLift):
    """DeepLIFT without the mixing of positive and negative parts: a variant that is meant to fail.

    Rescale with the cross terms of the linear rule left out. chains="code": m_in = W+^T m+ where an input is
    above its reference, W+^T m- where it is below, W^T (m+ + m-)/2 where it is equal, for both multipliers.
    Starting equal they stay equal, so one is carried: m_in = W+^T m where x differs from x0. chains="text":
    m+_in = [x > x0] W+^T m+ and m-_in = [x < x0] W-^T m-, two chains that never meet. Everything else as in
    deeplift-rescale. The contributions are not complete. Products of non-negative matrices converge to rank
    one, and the map forgets the class: Sixt et al. use this to show that the mixing is what saves DeepLIFT.

    Args:
        reference: "zeros" (the mean image after the usual normalization), "blur" (each image's own Gaussian
            blur), a tensor (C, H, W) or (1, C, H, W) for all images, such as the mean image, or (N, C, H, W)
            with one for each image of a call (tests that split or fold batches need one of the other forms).
        blur: standard deviation of the blur in pixels.
        max_pool: "exchange", or "gradient", the image's winner takes all (Sixt's code).
        fold_batch_norm: treat a batch normalization and the layer before it as one affine map, whose weights
            are then the ones with a sign; alone it hands on m times its factor.
        chains: "code" as Sixt's code has it, "text" as their paper says.
        overrides: pairs of a function's name and "gradient" or "pass", for operations without a rule.

    Source:
        Sixt et al. 2020, section 2.2, below eq. 13, and their code (DeepLIFT ablation).

    Deviations:
        Their code keeps the full W where an input equals its reference, and W+ in both chains; their text has
        W- in the negative one and says nothing of equal inputs, which chains="text" leaves at 0. Sums are
        taken as gradients: they have positive weights only, which lose no cross term (a subtraction would).

    Peers:
        The rule in explicit loops in numpy, to 1e-10 (test_deeplift_golden.py). None known otherwise.
    """

    chains: Literal["code", "text"] = "code"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_choice("chains", self.chains, ("code", "text"))

    @property
    def name(self) -> str:
        """deeplift-ablation."""
        return "deeplift-ablation"

    def _paired(self, pairs: Pairing) -> RuleSet:
        text = self.chains == "text"

        def read(tensor: Tensor, multipliers: Tensor) -> Tensor:
            difference = pairs.difference(tensor)
            if not text:
                return multipliers * difference
            above, below = multipliers.chunk(2)
            return above * difference.clamp(min=0) + below * difference.clamp(max=0)

        rules = single_rules(pairs, exchange if self.max_pool == "exchange" else lambda _: gradient)
        return RuleSet(
            self.name, (affine_decoupled if text else affine_ablation)(pairs), rules,
            self._changed() | _AFFINE, fold_batch_norm=self.fold_batch_norm, overrides=self.overrides,
            lean=True, lift=doubled if text else None, read=read,
        )  # fmt: skip
