"""The life of a job: states, executors, and what is taken from a run that has ended.

It refuses to read what a run wrote: `outputs` copies bytes, others parse them.
"""
