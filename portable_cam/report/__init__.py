"""Explanations as figures, files, records and pages."""
