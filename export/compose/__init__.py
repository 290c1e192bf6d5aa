"""Several models made one: an encoder and its decoder, a step of a decoder unrolled."""
