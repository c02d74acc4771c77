"""Who drives the stages, and how do several processes agree?"""
