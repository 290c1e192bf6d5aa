"""Which tensors keep the image's spatial axes, and which of them to explain."""
