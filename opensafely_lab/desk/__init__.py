"""The analyst's side: client, local runs, magics, widgets, the Jupyter server extension.

It refuses to give a level 4 number to a kernel.
"""
