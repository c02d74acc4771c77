"""Which blocks learn at a step?"""
