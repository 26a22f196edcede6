import threading
import time

import pytest
import torch

from explore.viewed import tiny
from networks import images
from veridical.attributions import method, methods
from veridical.explore.worker import MAX_WAITING, Bench, Busy, Interruptible, Outdated


@pytest.fixture
def bench():
    found = Bench()
    yield found
    found.close()


def wait_for(stop):
    assert stop.wait(30)
    raise Outdated


@pytest.mark.parametrize("name", sorted(set(methods()) - {"patternnet", "pattern-attribution"}))
def test_being_interruptible_changes_no_bit(name):
    model, inputs, explainer = tiny().model, images(2, dtype=torch.float32), method(name)
    plain = explainer(model, inputs, 1)
    with Interruptible(threading.Event()):
        watched = explainer(model, inputs, 1)
    assert torch.equal(plain, watched)


def test_an_interrupt_is_no_exception_that_a_method_could_catch():
    stop = threading.Event()
    stop.set()
    with pytest.raises(Outdated), Interruptible(stop):
        try:
            torch.ones(1).exp()
        except Exception:
            pytest.fail("caught")
    assert torch.ones(1).add(1) == 2


def test_everything_is_computed_in_one_thread_in_the_order_of_asking(bench):
    names, results = set(), []
    for value in range(3):
        results.append(
            bench.ask("a", value, lambda _, value=value: names.add(threading.get_ident()) or value)
        )
    assert results == [0, 1, 2] and len(names) == 1 and threading.get_ident() not in names


def test_what_is_raised_is_raised_where_it_was_asked_for(bench):
    def fail(_):
        raise LookupError("why")

    with pytest.raises(LookupError, match="why"):
        bench.ask("a", 0, fail)
    assert bench.ask("a", 0, lambda _: 1) == 1


def test_an_older_view_is_refused_and_views_of_other_pages_are_not(bench):
    assert bench.ask("a", 5, lambda _: 1) == 1
    with pytest.raises(Outdated):
        bench.ask("a", 4, lambda _: 1)
    assert bench.ask("a", 5, lambda _: 2) == 2 and bench.ask("b", 0, lambda _: 3) == 3


def test_the_long_work_is_alone_until_it_ends(bench):
    begun, prepared = threading.Event(), []

    def work(stop):
        begun.set()
        stop.wait(30)

    assert not bench.working
    bench.begin(work, lambda: prepared.append(1))
    assert begun.wait(10) and bench.working
    for refused in (
        lambda: bench.ask("a", 0, lambda _: 1),
        lambda: bench.begin(work, lambda: prepared.append(2)),
    ):
        with pytest.raises(Busy, match="stop it"):
            refused()
    bench.stop()
    while bench.working:
        time.sleep(0.001)
    assert prepared == [1] and bench.ask("a", 0, lambda _: 1) == 1


def test_what_cannot_be_prepared_is_not_begun(bench):
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        bench.begin(lambda _: pytest.fail("begun"), fail)
    assert not bench.working


def asking(bench, count):
    found = []

    def ask(place):
        try:
            found.append(bench.ask("a", 1, wait_for))
        except (Outdated, Busy) as error:
            found.append(type(error))

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    return threads, found


def test_there_is_a_limit_of_those_who_wait(bench):
    threads, found = asking(bench, MAX_WAITING + 3)
    for _ in range(3000):
        if len(found) == 3:
            break
        time.sleep(0.01)
    assert found == [Busy] * 3
    bench.close()
    for thread in threads:
        thread.join()
    assert found == [Busy] * 3 + [Outdated] * MAX_WAITING
