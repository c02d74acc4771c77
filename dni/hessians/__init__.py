"""What does the Hessian of one layer, or of several, look like?"""
