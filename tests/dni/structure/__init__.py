"""How does the structure of a network change while it trains?"""
