"""python -m clip_adapt VERB ..."""

import sys

from clip_adapt.cli import main

sys.exit(main())
