"""From options to an explanation graph."""
