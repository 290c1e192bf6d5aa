"""The tasks: an image in, an explanation out."""
