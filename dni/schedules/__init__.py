"""When is what done, as a function of the step?"""
