"""A notebook as a program: its source, its parameters as data, its execution inside a sandbox, its result.

It refuses to parse an executed notebook outside the sandbox.
"""
