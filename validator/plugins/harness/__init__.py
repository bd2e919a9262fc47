"""The lm-evaluation-harness plugin: spectral tasks, the model that is read in place, its command.

The only room that imports lm_eval; importing this package itself does not.
"""
