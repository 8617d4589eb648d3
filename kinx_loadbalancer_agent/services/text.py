"""Templates: text is laid out there and computed nowhere. Must never see a resource's rules."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2


def template_directory() -> Path:
    """Return where the package's templates are: in it when installed, beside it in a checkout."""
    package = Path(str(resources.files("kinx_loadbalancer_agent")))
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"


class Templates:
    """The templates of *directories*, the first one that has a name wins."""

    def __init__(self, directories: Sequence[Path] = ()) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([*directories, template_directory()]),
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def render(self, name: str, view: Mapping[str, Any]) -> bytes:
        """Return the template *name* filled with *view*; an undefined name is an error."""
        return self._environment.get_template(name).render(view).encode()
