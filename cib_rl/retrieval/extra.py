"""Names the optional packages that retrieval needs."""

from __future__ import annotations

from importlib.util import find_spec

from cib_rl.errors import UserError

PIP_NAMES = {"sentence_transformers": "sentence-transformers", "faiss": "faiss-cpu"}  # where pip's name is another


def require(what: str, *packages: str) -> None:
    """Raise UserError when a package that `what` needs is not installed."""
    missing = [PIP_NAMES.get(package, package) for package in packages if find_spec(package) is None]
    if missing:
        extra = "dense" if "faiss-cpu" in missing else "search"
        raise UserError(f"{what} needs {' and '.join(missing)}: pip install 'cib-rl[{extra}]'")
