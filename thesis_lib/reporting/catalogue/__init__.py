"""Every figure and table of the results chapter, by name.

Notebooks draw and write them, ``thesis verify`` makes the tables again, and ``thesis chapter``
includes both with their captions.
"""
