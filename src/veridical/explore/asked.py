"""What the page may ask for; anything else is refused before any work."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from veridical.records import explain_invalid

MOST_SAMPLES, MOST_NOISE = 50, 0.5
SHARPEST, SMOOTHEST = 100.0, 0.5
MOST_STEPS = 2000

Place = Annotated[int, Field(ge=0, lt=2**31)]


class Smoothing(BaseModel):
    """How a map is made smooth.

    Attributes:
        beta: of the softplus activations; None for those of the network.
        noise: of SmoothGrad, as a fraction of the image's range; 0 for the image alone.
        samples: noisy copies.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    beta: float | None = Field(default=None, ge=SMOOTHEST, le=SHARPEST)
    noise: float = Field(default=0.0, ge=0, le=MOST_NOISE)
    samples: int = Field(default=10, ge=1, le=MOST_SAMPLES)

    @classmethod
    def of(cls, body: dict[str, Any]) -> Self:
        """What a request asks for.

        Raises:
            ValueError: a field is missing, unknown, or out of range; the message names it.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise ValueError(explain_invalid("the request", error)) from error


class Look(Smoothing):
    """One map: of an image, for a class (None for the predicted one), by a method."""

    image: Place
    target: Place | None = None
    method: str = Field(max_length=100)


class Asked(Look):
    """One map, and who asks: `view` grows with everything that a page asks anew."""

    page: str = Field(pattern=r"^[a-z0-9]{1,32}$")
    view: Place


class Attack(Look):
    """A manipulation: the image's map is to become that of another one."""

    other: Place
    steps: int = Field(ge=1, le=MOST_STEPS)
