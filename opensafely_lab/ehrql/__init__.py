"""Dataset definitions: the language, the frozen query model, the DuckDB engine, the isolated loader.

It touches the world only in `engine` and `loader`. Importing this module imports no database.
"""
