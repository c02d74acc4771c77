"""How does a loss curve along a direction, subset by subset of the parameters, and which rates follow from that?"""
