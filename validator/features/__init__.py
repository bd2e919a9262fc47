"""Attention of a causal language model -> a fixed-length vector of graph descriptors."""
