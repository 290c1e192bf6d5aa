"""Images: decoding, geometry, preprocessing, colours."""
