"""Side-by-side timings; run them on a machine with nothing else to do."""
