"""Differentiation: the backward pass, the registry of gradient rules, and the rules."""
