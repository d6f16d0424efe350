"""The public jobs site: accounts, projects, workspaces, job requests, code bundles. Holds no patient data.

It never calls a backend, and never learns more of a job than a state and a code. `python -m
opensafely_lab.site --config FILE` serves it; `seed` makes the people and places of the one-machine default.
"""
