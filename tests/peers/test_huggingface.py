"""Hugging Face classifiers as they come: an output with `.logits`, fused attention in transformers.

And timm's. Configurations with random weights; nothing is downloaded.
"""

import pytest
import torch

from networks_users import SUBJECTS, Subject
from veridical import cascading_randomization, cosine_convergence, random_logit
from veridical.attributions import method
from veridical.checks import check_deterministic, check_logits
from veridical.rules import record

pytestmark = pytest.mark.peer

NAMES = [name for name, subject in SUBJECTS.items() if subject.package in ("transformers", "timm")]
METHODS = ["gradient", "guided-backprop", "lrp-z", "lrp-zplus", "lrp-alpha2-beta1", "lrp-cmp-alpha1"]


@pytest.fixture(params=NAMES)
def subject(request) -> Subject:
    result = SUBJECTS[request.param]
    pytest.importorskip(result.package, reason=f"needs {result.package} (make peers)")
    return result


def test_outputs_with_logits_are_understood(subject: Subject) -> None:
    model, x = subject.module(), subject.images()
    logits = check_logits(model(x), 2)
    check_deterministic(model, x)
    torch.testing.assert_close(record(model, x).logits, logits, rtol=1e-10, atol=1e-12)
    assert "unknown" not in [operation.kind for operation in record(model, x).operations]


@pytest.mark.parametrize("name", METHODS)
def test_methods_run_and_follow_the_class(subject: Subject, name: str) -> None:
    model, x = subject.module(), subject.images()
    one, other = (method(name)(model, x, target) for target in (1, 2))
    assert one.shape == x.shape and bool(one.isfinite().all()) and bool(one.any())
    assert not torch.equal(one, other)


def test_the_gradient_is_that_of_autograd(subject: Subject) -> None:
    model, x = subject.module(), subject.images()
    image = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(check_logits(model(image), 2)[:, 3].sum(), image)
    assert torch.equal(method("gradient")(model, x, 3), expected)
    differentiable = method("gradient")(model, x.clone().requires_grad_(), 3)
    torch.testing.assert_close(differentiable.detach(), expected, rtol=1e-6, atol=1e-10)


def test_heads_of_attention_are_written_out() -> None:
    pytest.importorskip("transformers", reason="needs transformers (make peers)")
    subject = SUBJECTS["Hugging Face ViT"]
    kinds = [operation.kind for operation in record(subject.module(), subject.images()).operations]
    assert kinds.count("softmax") == 3 and kinds.count("matmul") == 6 and kinds.count("normalization") == 7


@pytest.mark.parametrize("name", ["Hugging Face ResNet", "Hugging Face ViT"])
def test_audits_understand_outputs_with_logits_too(name: str) -> None:
    pytest.importorskip("transformers", reason="needs transformers (make peers)")
    model, x = SUBJECTS[name].module(), SUBJECTS[name].images()
    assert bool(random_logit(model, x, method="lrp-zplus").similarity.isfinite().all())
    assert cosine_convergence(model, x, method="lrp-zplus").layers
    assert cascading_randomization(model, x[:1], method="lrp-z").layers
