"""Known models: where they come from, how they are checked, and how any causal LM is loaded."""
