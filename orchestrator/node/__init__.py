"""What is shipped to hosts: standard library only, Python 3.8, one small file per request family.

The controller imports from here what both ends must agree on (frames, names of files).
A module here may import a sibling as `from . import name`; the sibling is sent along with it.
"""
