"""A home server for Matrix, as the specification of 2014 describes it."""

__version__ = "0.1.0"
