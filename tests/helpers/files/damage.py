"""Damage as disks and copies do it, for tests of files that must notice it."""

PAGE = 4096


def flipped(data, draw):
    """One bit of the bytes is another one."""
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def with_zeros(data, draw):
    """A page of zeros somewhere; where there were zeros only, another place is drawn."""
    while True:
        start = draw.randrange(max(1, len(data) - PAGE + 1))
        changed = data[:start] + bytes(min(PAGE, len(data) - start)) + data[start + PAGE :]
        if changed != data:
            return changed
