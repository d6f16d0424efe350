"""`import ehrql` finds `opensafely_lab.ehrql`, wherever no real `ehrql` is installed.

`opensafely_lab_ehrql.pth` installs the finder when Python starts, so this module imports next to
nothing. It goes first on `sys.meta_path`: found last, `ehrql.tables.core` would be loaded from its
file a second time, and `patients` would be two objects. Whatever is asked for under `ehrql` is the
very module of `opensafely_lab.ehrql`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

ALIAS, OURS = "ehrql", "opensafely_lab.ehrql"


class _Loader:
    """Hands over the module that is already there, as it is."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.own_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.target)
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # importing under the alias has set the alias's spec; it is still the same module
        module.__spec__ = self.own_spec


class EhrqlFinder:
    """Finds `ehrql` and what is in it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, rest = name.partition(".")
        if top != ALIAS or (not rest and self._is_installed()):
            return None
        if rest and getattr(sys.modules.get(ALIAS), "__name__", None) != OURS:
            return None
        ours = f"{OURS}.{rest}" if rest else OURS
        try:
            importlib.import_module(ours)
        except ModuleNotFoundError as error:
            if error.name == ours:
                return None
            raise
        is_package = hasattr(sys.modules[ours], "__path__")
        return ModuleSpec(name, _Loader(ours), is_package=is_package)  # type: ignore[arg-type]

    def _is_installed(self) -> bool:
        """Whether another finder knows a real package of that name; a mere folder is none."""
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(ALIAS, None)
            if spec is not None and spec.origin is not None:
                return True
        return False


def install() -> None:
    """Put the finder first, once."""
    if not any(isinstance(finder, EhrqlFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, EhrqlFinder())
