"""What is a run, can it work, and what follows for every stage?"""
