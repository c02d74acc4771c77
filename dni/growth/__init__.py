"""How does a network become larger while it trains?"""
