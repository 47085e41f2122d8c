"""The cache of decoded images: the file, and how it is built."""
