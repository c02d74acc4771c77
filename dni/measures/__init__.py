"""How good is a gradient, and what has a network learned?"""
