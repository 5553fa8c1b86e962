"""References to variables in values, commands and arguments, as a kubelet expands them: `$(NAME)`, and `$$` for a `$` that stays.

https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
"""

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """What a container gets. A reference to what is not there stays as it is written."""
    return _REFERENCE.sub(
        lambda found: "$" if found[0] == "$$" else variables.get(found[1], found[0]), text
    )
