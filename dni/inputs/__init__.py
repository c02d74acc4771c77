"""Where does a stage's input come from?"""
