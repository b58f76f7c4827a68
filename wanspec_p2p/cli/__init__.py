"""`wanspec …`: the one place that reads flags and variables, and the one door errors leave by.

Command modules import what they run inside their functions, so that `wanspec --help` stays quick and never loads torch.
"""
