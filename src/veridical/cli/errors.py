"""A mistake of the user becomes one line on stderr and exit code 2; an interrupt becomes 130."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

USAGE = 2
INTERRUPTED = 130


@contextmanager
def one_line_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Turn the errors that a wrong argument, file or model causes into one line and an exit code.

    Args:
        interrupted: what to say on Ctrl-C.

    Raises:
        Exit: with code 2 after an error, 130 after an interrupt.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            yield
    except KeyboardInterrupt:
        typer.echo(interrupted, err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, TypeError, RuntimeError, OSError, ImportError, LookupError) as error:
        if isinstance(error, typer.Exit):
            raise
        typer.echo(f"error: {one_line(error)}", err=True)
        raise typer.Exit(USAGE) from None


def one_line(error: BaseException) -> str:
    """The message of an error in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return text or type(error).__name__


def _show(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"warning: {message}", err=True)


def names(text: str | None) -> list[str] | None:
    """The names of a list "a,b"; None for None."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
