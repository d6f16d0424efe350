"""OpenSAFELY Lab: analyse health records in notebooks without seeing them.

This module imports nothing: JupyterLab, IPython and every job's kernel import it first.
"""

__version__ = "0.1.0"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Tell Jupyter Server where our server extension is."""
    return [{"module": "opensafely_lab.desk.server"}]


def load_ipython_extension(ipython: object) -> None:
    """Register `%opensafely`, for `--ext=opensafely_lab` and `%load_ext opensafely_lab`.

    In the kernel of an unattended run it is there and does nothing; the desk is not.
    """
    from importlib import import_module  # by name: this module is on no floor
    from os import environ

    if environ.get("OSL_RUN"):
        ipython.register_magic_function(lambda line: None, "line", "opensafely")  # type: ignore[attr-defined]
    else:
        import_module("opensafely_lab.desk.magics").register(ipython)
