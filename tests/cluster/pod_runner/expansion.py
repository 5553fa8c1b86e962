"""Expand references to variables as a kubelet does: `$(NAME)`, and `$$` for a literal `$`.

See
https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/.
"""

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Expand the text. A reference to an unknown variable stays as it is."""
    return _REFERENCE.sub(
        lambda found: "$" if found[0] == "$$" else variables.get(found[1], found[0]), text
    )
