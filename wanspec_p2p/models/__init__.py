"""Models that draft and verify. Importing it asks for products that do not depend on their company (`reproducible`)."""

import os as _os

from wanspec_p2p.models import reproducible as _reproducible

_reproducible.ask_for(_os.environ, intel=_reproducible.is_intel())
