"""A file that takes a photo as it is decoded and gives the overlay: what lies before and behind an explanation."""
