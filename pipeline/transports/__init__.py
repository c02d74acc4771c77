"""How do messages get from one stage to the next?"""
