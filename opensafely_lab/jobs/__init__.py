"""The life of a job: states, executors, and what is taken from a run that has ended.

`root.ensure_root` makes what a run sees as /, `executors` carry it out, `lifecycle.next_step` decides,
`loop.run_to_end` drives, `outputs.collect` copies what is left. It refuses to read what a run wrote
(others parse it), and to run anything where a layer of isolation is missing.
"""
