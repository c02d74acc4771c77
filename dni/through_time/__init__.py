"""How does a gradient reach back through time?"""
