"""How far an explanation can be trusted: a file per measure, and what they are compared by."""
