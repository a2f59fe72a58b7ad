"""Compute the rows of the tables, as they are shown: text and numbers in a data frame."""
