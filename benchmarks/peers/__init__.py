"""Other implementations, run in their own environments: none is a dependency, no code is shared."""
