"""python -m fusemap"""

import sys

from fusemap.cli.main import main

sys.exit(main())
