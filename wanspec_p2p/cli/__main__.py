"""`python -m wanspec_p2p.cli`, for where the `wanspec` script is not on the path."""

import sys

from wanspec_p2p.cli.entry import main

sys.exit(main())
