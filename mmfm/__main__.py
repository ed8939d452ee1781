"""`python -m mmfm …` is the command `mmfm …`."""

import sys

from mmfm.cli import main

sys.exit(main())
