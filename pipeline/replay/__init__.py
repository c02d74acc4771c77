"""Can a run be lived through again, and are the bits the same?"""
