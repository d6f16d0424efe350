"""The one chain extract -> run -> gate, for a local run as for the backend.

It refuses to show anything that the gate did not make.
"""
