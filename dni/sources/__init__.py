"""Where does the gradient at a stage's output come from?"""
