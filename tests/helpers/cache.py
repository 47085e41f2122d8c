"""What tests of the cache ask of it."""

from datasets.cache import build as cache_build
from datasets.dataset import load_image


def assert_holds(images, split):
    """Every image is that of its file, to the bit."""
    assert len(images) == split.num_images
    for i in range(split.num_images):
        ours, theirs = images(i), load_image(split, i)
        assert (ours.mode, ours.size, ours.tobytes()) == (theirs.mode, theirs.size, theirs.tobytes())


def counted(monkeypatch):
    """How many images are decoded from here on."""
    decoded, real = [], cache_build.load_image
    monkeypatch.setattr(cache_build, "load_image", lambda *args: decoded.append(args[1]) or real(*args))
    return decoded
