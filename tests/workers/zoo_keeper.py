"""Becomes an animal of the zoo: the one whose name stands in its arguments at its rank.

Behind a name, with commas, may stand its arguments: bomb,50
"""

import os
import sys

name, *arguments = sys.argv[1 + int(os.environ["RANK"])].split(",")
script = os.path.join(os.path.dirname(__file__), "zoo", f"{name}.py")
os.execv(sys.executable, [sys.executable, script, *arguments])
