"""What a model is, what can be explained of it, and what that costs."""
