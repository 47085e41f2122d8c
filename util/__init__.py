"""What depends on neither this network nor this data set, in packages by purpose."""

__version__ = "1.0.0"
