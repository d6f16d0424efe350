"""What a notebook shows of a run while it goes on: a bar, a word, a link to the panel.

It refuses to show a number: results are read in the panel.
"""
