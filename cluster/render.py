"""The one template layer: Jinja2, where every value is quoted for the language of the file.

In `*.yaml` an expression becomes JSON, which is YAML; in `*.sh` it becomes one shell word. So no value, whatever is in
it, can become anything else. `| raw` leaves out the quoting, for what is quoted already.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).parent / "templates"


class Raw(str):
    """Text that goes into the file as it is."""


def quoted(value: Any, suffix: str) -> Any:
    if isinstance(value, Raw):
        return value
    if suffix == ".yaml":
        return json.dumps(value, ensure_ascii=False)
    return shlex.quote(str(value))


def render(template: str, **values: Any) -> str:
    """`templates/NAME` with values. A value that the template wants and isn't given is an error."""
    suffix = Path(template).suffix
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: quoted(value, suffix),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["raw"] = Raw
    return environment.get_template(template).render(values)
