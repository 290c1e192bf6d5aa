"""From a file or an object to a model in memory, without trusting it."""
