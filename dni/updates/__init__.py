"""What is done to an update beside the optimiser?"""
