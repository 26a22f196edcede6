"""One computation at a time: whoever asks waits in line, and what nobody waits for any more is stopped."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from torch.overrides import TorchFunctionMode

MAX_WAITING = 16
MAX_PAGES = 64
_RUNNING = "a manipulation is running; wait for its end, or stop it"


class Outdated(BaseException):  # noqa: N818 - not an error: a newer question took its place
    """What was asked is not wanted any more; not caught by methods that catch every error."""


class Busy(Exception):  # noqa: N818 - the same question later is fine
    """Something else is being computed, and this does not wait for it."""


class Interruptible(TorchFunctionMode):
    """Lets a computation be stopped between two functions of torch; it changes none of them.

    Args:
        stop: the computation ends with `Outdated` soon after this is set.
    """

    def __init__(self, stop: threading.Event) -> None:
        """Nothing is watched before the mode is entered."""
        super().__init__()
        self._stop = stop

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """The function's own result."""
        if self._stop.is_set():
            raise Outdated
        return func(*args, **(kwargs or {}))


@dataclass(eq=False)
class _Errand:
    page: str
    view: int
    stop: threading.Event = field(default_factory=threading.Event)
    future: Future[Any] = field(default_factory=Future)

    def end(self) -> None:
        self.stop.set()
        self.future.cancel()


class Bench:
    """One thread in which everything is computed.

    There are short questions, whose askers wait for the answer, and one long work at a time, which goes
    first: it ends the short ones, and while it runs there are no others.
    """

    def __init__(self) -> None:
        """The thread starts with the first question."""
        self._pool = ThreadPoolExecutor(1, "veridical-explore")
        self._lock = threading.Lock()
        self._errands: set[_Errand] = set()
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._long: _Errand | None = None

    @property
    def working(self) -> bool:
        """Whether the long work is running or waits for its turn."""
        return self._long is not None and not self._long.future.done()

    def ask(self, page: str, view: int, compute: Callable[[threading.Event], Any]) -> Any:
        """The result of a computation; a later view of the same page ends those of earlier ones.

        Args:
            page: who asks.
            view: grows with everything that the page asks anew.
            compute: is given the event that stops it.

        Returns:
            What it returns.

        Raises:
            Outdated: a newer view took its place.
            Busy: the long work is running, or too many wait.
        """
        with self._lock:
            errand = self._admitted(page, view)
            errand.future = self._pool.submit(compute, errand.stop)
            self._errands.add(errand)
        try:
            return errand.future.result()
        except CancelledError:
            raise Outdated from None
        finally:
            with self._lock:
                self._errands.discard(errand)

    def _admitted(self, page: str, view: int) -> _Errand:
        if self.working:
            raise Busy(_RUNNING)
        if view < self._newest.get(page, -1):
            raise Outdated
        self._newest[page] = view
        self._newest.move_to_end(page)
        if len(self._newest) > MAX_PAGES:
            self._newest.popitem(last=False)
        for other in self._errands:
            if other.page == page and other.view < view:
                other.end()
        if sum(not other.future.done() for other in self._errands) >= MAX_WAITING:
            raise Busy(f"{MAX_WAITING} computations are waiting already; try again in a moment")
        return _Errand(page, view)

    def begin(self, compute: Callable[[threading.Event], None], prepare: Callable[[], None]) -> None:
        """Start the long work; returns at once.

        Args:
            compute: is given the event that stops it.
            prepare: called before, where nothing else is running; what it raises is raised.

        Raises:
            Busy: one is running.
        """
        with self._lock:
            if self.working:
                raise Busy(_RUNNING)
            prepare()
            for other in self._errands:
                other.end()
            self._long = _Errand("", 0)
            self._long.future = self._pool.submit(compute, self._long.stop)

    def stop(self) -> None:
        """Ask the long work to end, if there is one."""
        if self._long is not None:
            self._long.stop.set()

    def close(self) -> None:
        """End everything and wait until the thread is free."""
        with self._lock:
            for other in self._errands:
                other.end()
            self.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
