"""Is what the tests lean on right itself?"""
