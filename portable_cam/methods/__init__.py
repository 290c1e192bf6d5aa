"""Methods that run a model many times: perturbations, sampling, paths; what one graph computes is in ``export``."""
