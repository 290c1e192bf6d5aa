"""Explanations as pictures, files and records."""
