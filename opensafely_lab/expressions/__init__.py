"""Typed expressions over one row: operators, JSON, SQL. What ehrQL and `safe` share.

Floor 0: no I/O. It refuses to know tables, patients or files: a leaf is somebody else's column.
"""
