from threading import Event

import pytest
import torch

from explore.viewed import tiny
from veridical.attributions import method
from veridical.explore import Live
from veridical.explore.asked import Attack, Look
from veridical.explore.forging import Studio
from veridical.report.pictures import is_signed, map_tile, scale
from veridical.smoothing import beta_smooth, smoothgrad


def test_a_map_is_that_of_the_method_itself():
    live = Live(tiny())
    found = live.draw(Look(image=1, target=2, method="lrp-zplus", beta=1.5, noise=0.2, samples=3), Event())
    explainer = smoothgrad(beta_smooth(method("lrp-zplus"), 1.5), 3, 0.2)
    values = explainer(live.subject.model, live.subject.inputs[1:2], 2)[0].sum(0).numpy()
    signed = is_signed(values)
    assert found["picture"] == map_tile(values, limit=scale(values), signed=signed)
    assert (found["signed"], found["limit"], found["label"]) == (signed, scale(values), "cat")


def test_labels_that_do_not_exclude_one_another_have_sigmoids():
    live = Live(tiny(many=True))
    logits = live.subject.model(live.subject.inputs[:1])[0].sigmoid()
    shown = live.state()["images"][0]["classes"]
    assert [one["probability"] for one in shown] == pytest.approx(sorted(logits.tolist(), reverse=True))


def test_images_and_names_belong_together():
    with pytest.raises(ValueError, match="expected a name for each of 3 images, got 2"):
        Live(tiny(names=("a", "b")))


def test_a_method_that_writes_into_its_images_changes_no_other_map():
    def vandal(model, inputs, target=None):
        return inputs.mul_(0)

    live = Live(tiny(methods={"vandal": vandal}))
    before = live.subject.inputs.clone()
    live.draw(Look(image=0, method="vandal"), Event())
    assert torch.equal(live.subject.inputs, before)


def test_the_defense_that_is_set_is_what_is_attacked():
    live = Live(tiny())
    studio = Studio(live)
    attack = Attack(image=0, method="gradient", other=1, steps=12, beta=0.5)
    studio.prepare(attack)
    assert studio.progress.phase == "running"
    studio.run(attack, Event())
    assert studio.progress.phase == "done", studio.progress.message
    plain = attack.model_copy(update={"beta": None})
    other = Studio(live)
    other.prepare(plain)
    other.run(plain, Event())
    pictures = [one.progress.pictures["original"]["picture"] for one in (studio, other)]
    assert pictures[0] != pictures[1]


def test_a_manipulation_that_is_stopped_at_once_has_one_step():
    studio, stop = Studio(Live(tiny())), Event()
    stop.set()
    attack = Attack(image=0, method="gradient", other=1, steps=50)
    studio.prepare(attack)
    studio.run(attack, stop)
    assert studio.progress.phase == "done" and studio.progress.step == 1
    assert studio.progress.figures["interrupted"]
