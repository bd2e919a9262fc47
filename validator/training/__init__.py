"""Labelled traces, sampling, problem-grouped splits, and the runs that fit and judge a score."""
