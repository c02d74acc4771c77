"""How would a run spend its time if every stage had its own device?"""
