"""From the names that data give to classes to the numbers that a network gives them."""

from collections.abc import Sequence


def class_numbers(
    names: Sequence[str], known: Sequence[str] | None, count: int
) -> tuple[tuple[int, ...] | None, str]:
    """The number that a network gives to each class of the data, and how it was found.

    The first of these that fits all classes: the network knows the names (case makes no difference); the
    names are numbers of the network's classes; the data have as many classes as the network, none of which
    it knows by name, and then they are in the same order.

    Args:
        names: of the classes of the data.
        known: the network's names of its classes; None where it has none.
        count: how many classes the network has.

    Returns:
        One number a class, or None where nothing fits; and a sentence about it.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(known or ()):
        places.setdefault(name.casefold().strip(), []).append(place)
    found = [places.get(name.casefold().strip(), []) for name in names]
    # A name that two classes of the network share says nothing (ImageNet has two cranes).
    if names and all(len(one) == 1 for one in found):
        return tuple(one[0] for one in found), "by the network's names of its classes"
    if names and all(name.isdecimal() and int(name) < count for name in names):
        return tuple(int(name) for name in names), "by the numbers that name them"
    if names and len(names) == count and not any(found):
        return tuple(range(count)), "by their order, since there are as many as the network has"
    shown = ", ".join(names[:3])
    return None, f"not known: {len(names)} classes ({shown}) for a network of {count}"
