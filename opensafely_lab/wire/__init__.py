"""Every message that crosses the wall, or that the browser and our Jupyter server exchange; each field listed.

Floor 1: no I/O. It refuses unknown fields: what crosses is listed, never filtered.
"""
