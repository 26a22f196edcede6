"""The LRP family by hand: alpha-beta with any alpha, LRP-CMP, excitation backprop."""

import re

import pytest
import torch
from torch import Tensor, nn

from networks import Hand, Residual, Sequential, images, seeded
from veridical.attributions import CONVENTIONS, method
from veridical.rules import propagate, record


def close(result: Tensor, expected: tuple[float, float]) -> None:
    torch.testing.assert_close(
        result.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-8
    )


def test_the_hand_network_is_what_the_hand_computed() -> None:
    assert Hand()(Hand.X).flatten().tolist() == [2.0, -1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # The head's epsilon rule hands (3, -2) to the units. Positive products 2 | 1 + 2, negative -2 | none.
        ("lrp-cmp-alpha1", {}, (3 * 2 / 3 - 2 * 1 / 3, -2 * 2 / 3)),
        ("lrp-cmp-alpha1", {"bias": "none"}, (3 - 2 / 3, -4 / 3)),
        ("lrp-cmp-alpha1", {"bias": "whole"}, (3 * 2 / 3 - 2 * 1 / 2, -2 * 2 / 2)),
        ("lrp-cmp-alpha2", {}, (2 * (2 - 2 / 3), 2 * (-4 / 3) - 3)),
        ("lrp-cmp-alpha2", {"bias": "whole"}, (2 * (2 - 1), 2 * (-2) - 3 * 2)),
        ("lrp-cmp-alpha2", {"convention": "sixt2020"}, (2 * (2 - 1), 2 * (-2) - 3 * 2)),
        ("lrp-cmp-alpha1", {"first": "w-square"}, (3 * 4 / 5 - 2 / 2, 3 * 1 / 5 - 2 / 2)),
        ("lrp-cmp-alpha1", {"first": "flat"}, (1 / 2, 1 / 2)),
        ("lrp-cmp-alpha1", {"seed": "one"}, ((2 - 2 / 3) / 2, -2 / 3)),
        # Head: positive product 3 and bias 1; the negative -2. Units get 5 * 2 * 3/4 and -4 * 2.
        ("lrp-alpha5-beta4", {}, (5 * 7.5 * 2 / 3 - 5 * 8 / 3, -4 * 7.5 - 5 * 8 * 2 / 3)),
        ("excitation-backprop", {}, (1.0, 0.0)),
        # Products alone: 3 - 2 at the head, 2 - 2 (which hands on nothing) and 1 + 2 at the units.
        ("lrp-z", {"bias": "none"}, (-4 / 3, -8 / 3)),
        ("lrp-epsilon", {"bias": "none", "epsilon": 1.0}, (6 - 1 / 2, -6 - 1)),
    ],
)  # fmt: skip
def test_two_units_by_hand(name: str, options: dict, expected: tuple[float, float]) -> None:
    close(method(name, **options)(Hand(), Hand.X, 0), expected)


def test_excitation_backprop_shares_one_among_the_excitatory_connections() -> None:
    close(method("excitation-backprop")(Hand(), Hand.X, 1), (1 / 3 + 2 / 3 * 1 / 3, 2 / 3 * 2 / 3))
    plain = method("lrp-zplus", seed="one")
    model, x = seeded(Residual), images()
    assert torch.equal(method("excitation-backprop")(model, x, 1), plain(model, x, 1))
    assert method("excitation-backprop").name == "excitation-backprop"


@pytest.mark.parametrize("alpha", [1.0, 1.5, 3.0, 10.0])
def test_any_alpha_conserves_relevance_without_bias(alpha: float) -> None:
    """Every unit with products of both signs hands on alpha - beta = 1 of what it gets."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(256, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.nn.functional.softplus(self.conv(x)).flatten(1))

    model, x = seeded(Both), images()
    relevance = method("lrp-alpha1-beta0", alpha=alpha, beta=alpha - 1, bias="none")(model, x, 1)
    torch.testing.assert_close(relevance.sum((1, 2, 3)), model(x)[:, 1])
    assert (
        method("lrp-alpha1-beta0", alpha=alpha, beta=alpha - 1).name
        == f"lrp-alpha{alpha:g}-beta{alpha - 1:g}"
    )


def test_cmp_is_the_epsilon_rule_above_and_the_alpha_beta_rule_below() -> None:
    model, x = seeded(Residual), images()
    trace = record(model, x)
    start = torch.randn(2, *trace.logits.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    for alpha in (1.0, 2.0):
        cmp = method("lrp-cmp-alpha1", alpha=alpha)
        dense = method("lrp-epsilon", epsilon=1e-10)
        below = method("lrp-alpha1-beta0", alpha=alpha, beta=alpha - 1)
        whole = propagate(trace, cmp.rules, start, keep=[":adaptive_avg_pool2d", ":add"])
        for layer, rules in ((":adaptive_avg_pool2d", dense.rules), (":add", None)):
            if rules is not None:
                kept = propagate(trace, rules, start, keep=[layer]).layers[layer]
                torch.testing.assert_close(whole.layers[layer], kept)
            part = propagate(trace, below.rules, whole.layers[layer], at=layer)
            torch.testing.assert_close(whole.inputs, part.inputs)


def test_cmp_on_a_network_of_dense_layers_only_is_the_epsilon_rule() -> None:
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 3)))
    x = images(size=4)
    expected = method("lrp-epsilon", epsilon=1e-3)(model, x, 1)
    torch.testing.assert_close(method("lrp-cmp-alpha2", epsilon=1e-3)(model, x, 1), expected)


def test_epsilon_has_the_sign_of_what_it_stabilizes_and_zero_counts_as_positive() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1)).double().eval()
    x = torch.tensor([1.0, 1.0], dtype=torch.float64).view(1, 2, 1, 1)
    for second, y in ((-1.0, 0.0), (-2.0, -1.0), (0.0, 1.0)):
        with torch.no_grad():
            model[1].weight.copy_(torch.tensor([[1.0, second]]))
            model[1].bias.zero_()
        stabilized = y + (0.5 if y >= 0 else -0.5)
        close(
            method("lrp-cmp-alpha1", epsilon=0.5, seed="one")(model, x, 0),
            (1 / stabilized, second / stabilized),
        )


def test_cmp_changes_with_the_class_in_dense_layers_where_z_plus_converges() -> None:
    sizes = [48, 16, 16, 16, 16]
    model = seeded(
        lambda: nn.Sequential(
            nn.Flatten(),
            *(
                layer
                for pair in zip(sizes, sizes[1:], strict=False)
                for layer in (nn.Linear(*pair), nn.ReLU())
            ),
            nn.Linear(16, 2),
        )
    )
    x = images(16, size=4)
    cosines = {}
    for name in ("lrp-cmp-alpha1", "lrp-zplus"):
        first, second = (method(name)(model, x, k).flatten(1) for k in (0, 1))
        cosines[name] = torch.cosine_similarity(first, second).abs().median()
    assert cosines["lrp-zplus"] > 0.99 and cosines["lrp-cmp-alpha1"] < 0.9


@pytest.mark.parametrize("name", ["lrp-alpha5-beta4", "lrp-cmp-alpha1", "lrp-cmp-alpha2"])
def test_sixts_conventions(name: str) -> None:
    explain = method(name, convention="sixt2020")
    assert (explain.bias, explain.clip_sums, explain.fold_batch_norm) == ("whole", True, False)
    assert explain.seed == "value" and explain.name == name and explain.first == "same"
    model, x = seeded(Residual), images()
    for change in ({"bias": "signed"}, {"clip_sums": False}, {"fold_batch_norm": True}):
        other = method(name, convention="sixt2020", **change)
        assert not torch.allclose(explain(model, x, 1), other(model, x, 1)), change


def test_methods_that_no_code_of_sixt_ran_have_no_convention() -> None:
    for name in ("excitation-backprop", "contrastive-excitation-backprop"):
        assert name not in CONVENTIONS["sixt2020"]
        with pytest.raises(ValueError, match="a method that sixt2020 ran"):
            method(name, convention="sixt2020")


def test_sixts_equation_of_contrastive_lrp_as_printed() -> None:
    printed = method("contrastive-lrp", convention="sixt2020")
    assert (printed.rectify, printed.rest) == ("class", "logits")


def test_without_its_bias_the_z_rule_conserves_relevance() -> None:
    model, x = seeded(Sequential), images()
    kept = method("lrp-z", bias="none")(model, x, 1).sum((1, 2, 3))
    torch.testing.assert_close(kept, model(x)[:, 1])
    absorbed = method("lrp-z")(model, x, 1).sum((1, 2, 3))
    assert not torch.isclose(absorbed, model(x)[:, 1], rtol=1e-3).any()


def test_a_constant_shift_is_a_bias_too() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2, bias=False)
            nn.init.eye_(self.head.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x + 1.0).flatten(1))

    x = torch.tensor([2.0, 4.0], dtype=torch.float64).view(1, 2, 1, 1)
    close(method("lrp-z", seed="one")(Shifted().double().eval(), x, 0), (2 / 3, 0.0))
    close(method("lrp-z", seed="one", bias="none")(Shifted().double().eval(), x, 0), (1.0, 0.0))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="expected bias to be one of none, whole, got 'signed'"):
        method("lrp-z", bias="signed")
    with pytest.raises(ValueError, match="alpha of at least 1, got 0.5; beta is alpha - 1"):
        method("lrp-cmp-alpha1", alpha=0.5)
    with pytest.raises(ValueError, match="epsilon above 0, got 0.0"):
        method("lrp-cmp-alpha2", epsilon=0.0)
    for option in ("bias", "seed"):
        with pytest.raises(ValueError, match=f"expected {option} to be one of .*, got 'half'"):
            method("lrp-cmp-alpha2", **{option: "half"})
    with pytest.raises(ValueError, match="alpha - beta = 1"):
        method("lrp-alpha5-beta4", alpha=4.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lrp-epsilon", "1e-06 sign"),
        ("lrp-zplus", "R_in = positive share; .* S = R / .W. x. . W- x-.\\.$"),
        ("lrp-alpha5-beta4", "5 x positive share - 4 x negative share.* b"),
        ("lrp-cmp-alpha2", "2 x positive share - 1 x negative share"),
    ],
)
def test_rules_say_what_they_do(name: str, words: str) -> None:
    rules = method(name).rules
    lines = [rule.__doc__.splitlines()[0] for rule in (rules.affine, *rules.rules.values())]
    assert all(lines)
    assert re.search(words, lines[0])
    assert method(name, first="flat").rules.first.__doc__.startswith("R_in = 1^T")


def test_one_pass_answers_several_targets() -> None:
    model, x = seeded(Sequential), images(2)
    targets = torch.tensor([[0, 1], [3, 2], [1, 1]])
    for name in (
        "lrp-cmp-alpha2",
        "excitation-backprop",
        "contrastive-lrp",
        "contrastive-excitation-backprop",
    ):
        explain = method(name)
        together = explain.from_trace(record(model, x), targets)
        for row, target in zip(together, targets, strict=True):
            torch.testing.assert_close(row, explain(model, x, target))
