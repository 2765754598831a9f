"""`SavedPrefixes`: files of a server's folder that hold the keys and values of prefixes, found by model and name."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from q3edge.errors import Q3EdgeError, describe_error
from q3edge.runtime.model import Model
from q3edge.server import log
from q3edge.server.errors import ApiError, bad_field
from q3edge.server.limits import MAX_PREFIXES

_ENDING = ".kv"


@dataclass(frozen=True, slots=True)
class SavedPrefixes:
    """Prefixes of one model; folder None: the server was told of none, so there are none and none can be saved."""

    folder: Path | None
    model: str

    def names(self) -> list[str]:
        """Names, the prefix that was saved first before the others."""
        if self.folder is None:
            return []
        found = self.folder.glob(f"{glob.escape(self._beginning)}*{_ENDING}")
        by_age = sorted(found, key=lambda path: path.stat().st_mtime)
        return [path.name[len(self._beginning) : -len(_ENDING)] for path in by_age]

    def path(self, name: str) -> Path:
        """File of a name. ApiError: 404, there is no folder; 400, there are as many prefixes as there may be."""
        if self.folder is None:
            raise ApiError(404, "this server saves no prefixes (--prefix-dir)", code="not_enabled")
        path = self.folder / f"{self._beginning}{name}{_ENDING}"
        if not path.exists() and len(self.names()) >= MAX_PREFIXES:
            raise bad_field("name", f"a model has at most {MAX_PREFIXES} saved prefixes; replace one of them")
        return path

    def restore(self, model: Model) -> None:
        """Put all into the cache of a model that has just been opened; what does not fit or is unfit is logged."""
        for name in self.names():
            try:
                tokens = model.load_prefix(self.path(name))
            except (Q3EdgeError, OSError) as error:
                log.write("prefix not restored", model=self.model, prefix=name, error=describe_error(error)[0])
            else:
                log.write("prefix restored", model=self.model, prefix=name, tokens=tokens)

    @property
    def _beginning(self) -> str:
        return f"{quote(self.model, safe='')}@"  # which no quoted name holds
