"""Checks and measurements of explanations and gradients."""
