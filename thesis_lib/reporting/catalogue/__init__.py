"""Define every figure and table of the results chapter by name.

The notebooks draw and write them, ``thesis verify`` recomputes the tables, and ``thesis chapter``
includes both with their captions.
"""
