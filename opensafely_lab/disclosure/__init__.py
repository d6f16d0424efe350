"""The gate: requests in, cells in, verdicts and protected tables out.

Floor 1: no I/O. It never opens a file, a database or a notebook; `ehrql.engine` counts, the gate judges.
"""
