"""The gradient costs no more than bare autograd."""

from benchmarks import subjects, timing
from veridical.attributions import method

TARGET = 1.05


def measure(rounds: int = 7) -> list[timing.Claim]:
    claims = []
    for name, build, count in [
        ("VGG-16", lambda: subjects.torchvision_network("vgg16"), 2),
        ("ResNet-50", lambda: subjects.torchvision_network("resnet50"), 4),
        ("EfficientNet-Lite0", subjects.efficientnet_lite, 8),
    ]:
        model, x = build(), subjects.batch(count)
        runs = {
            "forward": lambda model=model, x=x: subjects.forward(model, x),
            "veridical": lambda model=model, x=x: method("gradient")(model, x, 3),
            "autograd": lambda model=model, x=x: subjects.autograd_gradient(model, x, 3),
        }
        claims.append(
            timing.claim(
                f"gradient, {name}, batch {count}",
                runs,
                of="veridical",
                to="autograd",
                target=TARGET,
                rounds=rounds,
            )
        )
    return claims
