"""When does a block apply what it has accumulated?"""
