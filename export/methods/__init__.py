"""The methods: what each needs, and how the graph computes it."""
