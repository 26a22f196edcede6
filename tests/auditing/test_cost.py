"""What an audit costs: forward passes that are counted, and the plan's estimate of them."""

import time

import pytest
import torch

from veridical.attributions import method as find_method
from veridical.auditing import PRESETS, audit, cost, executor, plan_audit

QUICK = PRESETS["quick"]
THREE = ["random-logit", "cascading-randomization", "pixel-flipping"]


@pytest.fixture
def passes(network, images):
    """How many images go through the unchanged network, and through its randomized copies."""

    def count(names, tests):
        seen = {"unchanged": 0, "copies": 0}

        def saw(module, _given, output):
            seen["unchanged" if module is network else "copies"] += len(output)

        handle = network.register_forward_hook(saw)
        try:
            audit(network, images, methods={name: find_method(name) for name in names}, tests=tests)
        finally:
            handle.remove()
        return seen

    return count


def test_one_more_method_takes_one_pass_for_both_of_its_maps(passes):
    one, two = (passes(names, ["random-logit"]) for names in (["gradient"], ["gradient", "lrp-zplus"]))
    assert two["unchanged"] - one["unchanged"] == 5
    one, two = (passes(names, THREE) for names in (["gradient"], ["gradient", "lrp-zplus"]))
    # Its maps; the number of classes, from one image; the image as it is and six flipped ones.
    assert two["unchanged"] - one["unchanged"] == 5 + 1 + 5 * (1 + 2 * len(QUICK.flipped))
    # The modules in their order, from one image, and the maps of each randomized network.
    assert two["copies"] - one["copies"] == 1 + 5 * min(QUICK.steps, 3)


def planned(network, images, *names, tests=None):
    plan = plan_audit(network, images, methods=list(names), tests=tests)
    return {(line.method, line.test): line.passes / line.images for line in plan.lines}


def test_the_plan_knows_which_methods_answer_from_one_pass(network, images):
    found = planned(network, images, "gradient", "smoothgrad", "lrp-zplus", tests=["random-logit"])
    gradient, zplus = cost.FORWARD_PASSES["gradient"], cost.FORWARD_PASSES["lrp-zplus"]
    assert found["gradient", "random-logit"] == 2 * gradient - 1
    assert found["lrp-zplus", "random-logit"] == 2 * zplus - 1
    assert found["smoothgrad", "random-logit"] == 2 * gradient * QUICK.samples


def test_the_plan_counts_products_with_the_hessian(network, images, monkeypatch):
    from veridical.geometry import output

    made, plain = [], output.ShapeOperator.__call__
    monkeypatch.setattr(output.ShapeOperator, "__call__", lambda self, v: made.append(1) or plain(self, v))
    audit(network, images, methods=["gradient"], tests=["curvature"])
    products = QUICK.curvature_products + 1
    assert len(made) == QUICK.curved * products
    found = planned(network, images, "gradient", tests=["curvature"])
    assert found["gradient", "curvature"] == cost.CURVED + products * cost.PRODUCT


def test_random_orders_of_pixels_are_planned_once(network, images):
    found = planned(network, images, "gradient", "lrp-z", tests=["pixel-flipping"])
    each = len(QUICK.flipped)
    assert found["lrp-z", "pixel-flipping"] == 1 + 2 * each
    assert found["gradient", "pixel-flipping"] == 1 + (2 + QUICK.orders) * each


def test_the_images_without_squares_are_predicted_once(passes, network, images):
    one, two = (passes(names, ["infidelity"]) for names in (["gradient"], ["gradient", "lrp-zplus"]))
    # Its map and the image as it is.
    assert two["unchanged"] - one["unchanged"] == 5 + 5
    found = planned(network, images, "gradient", "lrp-z", tests=["infidelity", "sensitivity"])
    assert found["gradient", "infidelity"] == found["lrp-z", "infidelity"] + QUICK.squares
    own = cost.FORWARD_PASSES["lrp-z"]
    assert found["lrp-z", "sensitivity"] == 1 + QUICK.neighbors * own


@pytest.mark.slow
def test_the_plan_is_within_a_factor_of_two_on_a_real_network(monkeypatch):
    """The table in the documentation is narrower; here a busy machine must not fail the suite."""
    from veridical.data import sample_photographs
    from veridical.models import load_model

    loaded, seconds, plain = load_model("demo"), {}, executor.measure
    images = torch.stack([loaded.preprocessing.apply(one) for one in sample_photographs().images])

    def timed(subject, work):
        began = time.process_time()
        outcome = plain(subject, work)
        seconds[work.task.test] = time.process_time() - began
        return outcome

    monkeypatch.setattr(executor, "measure", timed)
    monkeypatch.setattr(cost, "CLOCK", time.process_time)
    options = {"methods": ["lrp-zplus"], "tests": [*THREE, "cosine-convergence", "sensitivity"]}
    audit(loaded.module, images, **options)
    ratios = {
        line.test: line.seconds / seconds[line.test]
        for line in plan_audit(loaded.module, images, **options).lines
    }
    assert ratios.keys() == set(options["tests"]) and all(0.5 < one < 2 for one in ratios.values()), ratios
