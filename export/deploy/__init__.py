"""What a runtime needs of an explanation graph."""
