"""Where the label of a box goes: at an edge of the box, inside the image and off other labels."""

from collections.abc import Sequence

Rectangle = tuple[float, float, float, float]  # x1, y1, x2, y2


def place_label(
    box: Sequence[float],
    label_size: tuple[float, float],
    image_size: tuple[float, float],
    taken: Sequence[Rectangle],
    *,
    above: bool = True,
) -> Rectangle:
    """The place of a label; it overlaps others only where no place near the box is free.

    Args:
        box: x1, y1, x2, y2.
        label_size: (width, height).
        image_size: (width, height).
        taken: the places of labels placed before.
        above: try above the box first, else below it.
    """
    x1, y1, x2, y2 = box
    width, height = label_size
    lines = [y1 - height, y2] if above else [y2, y1 - height]
    lines += [lines[0] + step * height for n in range(1, 6) for step in (n, -n)]
    places = []
    for x, y in [(x, y) for y in lines for x in (x1, x2 - width)]:
        left = min(max(x, 0.0), max(0.0, image_size[0] - width))
        top = min(max(y, 0.0), max(0.0, image_size[1] - height))
        places.append((left, top, left + width, top + height))
    return next((place for place in places if not any(_intersect(place, other) for other in taken)), places[0])


def _intersect(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
