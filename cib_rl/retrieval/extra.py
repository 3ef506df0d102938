"""Names the optional packages that retrieval needs."""

from __future__ import annotations

from importlib.util import find_spec

from cib_rl.errors import UserError


def require(what: str, *packages: str) -> None:
    """Raise UserError when a package that `what` needs is not installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UserError(f"{what} needs {' and '.join(missing)}: pip install 'cib-rl[search]'")
